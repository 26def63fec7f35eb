#!/bin/bash
# Submit a sweep from inside a job, where the login node allows no Python. From the folder that holds launch/:
#   sbatch slurm/sweep.sh launch/sweeps/mars_table2.py --at-most 4    what follows is for launch.sweep: see its --help
# This job only submits the array, which runs on. The same command again retries what failed and runs nothing twice.

##SBATCH --account=NAME            # remove one # where the cluster wants these
##SBATCH --partition=NAME
#SBATCH --job-name=sweep
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --time=30:00
#SBATCH --no-requeue               # half a submission is not to be repeated without looking
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

# module load cuda                 # what the cluster needs before python

# The points' own jobs must not inherit what describes this one.
for name in "${!SLURM_@}"; do [ "$name" = SLURM_CONF ] || unset "$name"; done
[ -d launch ] || { echo "no launch/ in $PWD; submit from the folder that holds it" >&2; exit 2; }
python=$PWD/.venv/bin/python
[ -x "$python" ] || python=$(command -v python)
"$python" -m launch.sweep "$@"
