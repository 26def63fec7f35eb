#!/bin/bash
# Pretrain a method on MALS. From the folder that holds recipes/:
#   sbatch slurm/pretrain_mals.sh                                     MARS, as set below
#   sbatch slurm/pretrain_mals.sh aptm                                another method: rasa, albef, aptm, irra
#   sbatch slurm/pretrain_mals.sh mars --schedule.epochs 4            overrides: see the recipe's --help
#   sbatch --nodes 4 slurm/pretrain_mals.sh                           options of sbatch win over these lines
# It leaves runs/pretrain_mals/METHOD, from which METHOD is fine-tuned: slurm/finetune.sh.
# The same command goes on where the last one stopped. The result does not depend on how many GPUs there are.

##SBATCH --account=NAME            # remove one # where the cluster wants these
##SBATCH --partition=NAME
#SBATCH --job-name=pretrain_mals
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=4        # one task a GPU: the same number
#SBATCH --cpus-per-task=8
#SBATCH --time=1-00:00:00          # a run that takes longer goes on by itself
#SBATCH --signal=USR2@120          # seconds before the end: more than a step and a save take
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

accelerate=                        # settings in launch/accelerate/, such as zero2; empty: DDP
root=                              # what `tbps data shard` wrote, or a URL of it; empty: shards/mals
# module load cuda                 # what the cluster needs before python

method=${1:-mars}
[ -d recipes ] || { echo "no recipes/ in $PWD; submit from the folder that holds it" >&2; exit 2; }
python=$PWD/.venv/bin/python
[ -x "$python" ] || python=$(command -v python)
trap '"$python" -m launch.requeue $?' EXIT
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  "$python" -m launch.rank ${accelerate:+--accelerate "$accelerate"} recipes/pretrain_mals.py \
  "$method" ${root:+--data.root "$root"} "${@:2}"
