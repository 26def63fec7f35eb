#!/bin/bash
# Fine-tune a method on a benchmark. From the folder that holds recipes/:
#   sbatch slurm/finetune.sh                                          MARS on CUHK-PEDES, as set below
#   sbatch slurm/finetune.sh recipes/rasa.py rstpreid --data.root DIR another recipe, variant, overrides: see its --help
#   sbatch --gpus-per-node 1 --ntasks-per-node 1 slurm/finetune.sh    options of sbatch win over these lines
# The same command goes on where the last one stopped. The result does not depend on how many GPUs there are.

##SBATCH --account=NAME            # remove one # where the cluster wants these
##SBATCH --partition=NAME
#SBATCH --job-name=finetune
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --ntasks-per-node=1        # one task a GPU: the same number; they share the batch in whole groups
#SBATCH --cpus-per-task=8
#SBATCH --time=1-00:00:00          # a run that takes longer goes on by itself
#SBATCH --signal=USR2@120          # seconds before the end: more than a step and a save take
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

accelerate=                        # settings in launch/accelerate/, such as zero2; empty: DDP
root=data/CUHK-PEDES
weights=weights/albef.safetensors  # ALBEF.pth through `tbps convert`, or a run folder: runs/pretrain_mals/mars
# module load cuda                 # what the cluster needs before python

if [ $# = 0 ]; then set -- recipes/mars.py cuhk-pedes --data.root "$root" --start.weights "$weights"; fi
[ -d recipes ] || { echo "no recipes/ in $PWD; submit from the folder that holds it" >&2; exit 2; }
python=$PWD/.venv/bin/python
[ -x "$python" ] || python=$(command -v python)
trap '"$python" -m launch.requeue $?' EXIT
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  "$python" -m launch.rank ${accelerate:+--accelerate "$accelerate"} "$@"
