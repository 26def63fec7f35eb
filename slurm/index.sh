#!/bin/bash
# Index a large folder of pictures, to be searched. From the folder that holds tbps/:
#   sbatch slurm/index.sh                                             photos into photos.index, as set below
#   sbatch slurm/index.sh FOLDER INDEX --run RUN                      others, and what else `tbps index --help` lists
#   sbatch --nodes 2 --gpus-per-node 4 --ntasks-per-node 4 slurm/index.sh    options of sbatch win over these lines
# The same command goes on where the last one stopped, and brings the index up to date. It is the same, byte by byte, however
# often the job was stopped; pictures, index and run lie on disks that all nodes share.

##SBATCH --account=NAME            # remove one # where the cluster wants these
##SBATCH --partition=NAME
#SBATCH --job-name=index
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --ntasks-per-node=1        # one task a GPU: the same number; they share the pictures, and the first one writes
#SBATCH --cpus-per-task=8          # decode pictures
#SBATCH --time=4:00:00             # what takes longer goes on by itself
#SBATCH --signal=USR2@60           # seconds before the end
#SBATCH --requeue                  # after a node's failure or a preemption it goes on by itself
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

pictures=photos                    # a folder, a list of files, or shards
index=photos.index
model=runs/mars/cuhk-pedes         # a run folder, or what `tbps export` wrote
# module load cuda                 # what the cluster needs before python

if [ $# = 0 ]; then set -- "$pictures" "$index" --run "$model"; fi
[ -d tbps ] || { echo "no tbps/ in $PWD; submit from the folder that holds it" >&2; exit 2; }
python=$PWD/.venv/bin/python
[ -x "$python" ] || python=$(command -v python)
trap '"$python" -m launch.requeue $?' EXIT
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" "$python" -m launch.index "$@"
