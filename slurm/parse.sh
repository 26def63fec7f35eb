#!/bin/bash
# Write a human-parsing map of every image of a data set. From the folder that holds tbps/:
#   sbatch slurm/parse.sh                                             ATR labels of CUHK-PEDES, as set below
#   sbatch slurm/parse.sh data/RSTPReid --benchmark rstpreid --parser schp-lip:schp/rstpreid    see `tbps parse --help`
#   sbatch --gpus-per-node 4 --ntasks-per-node 4 slurm/parse.sh       options of sbatch win over these lines
# The same command writes what is missing: after a stop, or where new images came. The maps do not depend on how many GPUs
# there are.

##SBATCH --account=NAME            # remove one # where the cluster wants these
##SBATCH --partition=NAME
#SBATCH --job-name=parse
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --ntasks-per-node=1        # one task a GPU: the same number; they share the images
#SBATCH --cpus-per-task=8
#SBATCH --time=4:00:00
#SBATCH --requeue                  # after a node's failure or a preemption it goes on by itself
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

root=data/CUHK-PEDES
parser=mattmdjaga/segformer_b2_clothes  # a name (fetched before, where nodes have no internet) or a folder
# module load cuda                 # what the cluster needs before python

if [ $# = 0 ]; then set -- "$root" --benchmark cuhk-pedes --parser "$parser"; fi
[ -d tbps ] || { echo "no tbps/ in $PWD; submit from the folder that holds it" >&2; exit 2; }
python=$PWD/.venv/bin/python
[ -x "$python" ] || python=$(command -v python)
export python
# Each task is a process of tbps parse, and ends alone: the others write their maps.
srun --kill-on-bad-exit=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c \
  'RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_STEP_NUM_TASKS LOCAL_RANK=$SLURM_LOCALID exec "$python" -m tbps.command parse "$@"' \
  parse "$@"
