#!/bin/bash
# Snakemake's head process as a Slurm job, for clusters that allow no long processes on login nodes. From the clone's root:
#   sbatch workflow/profiles/slurm/head.sh config/studies/NAME.yaml [more arguments for snakemake]
# It needs a partition whose nodes may submit jobs, and time for the whole study; add sbatch's options before the script.
# What comes from a hub is fetched by this job: if its node has no network, run `make prefetch` on a login node first, and
# keep fetched weights (`fetch.keep_weights`), for else checkpoints are fetched one after the other.
# At its time limit, and at `scancel --signal=INT --batch JOB`, it cancels its jobs and ends: submit it again. After a plain
# scancel or a lost node run `make recover` first.
#SBATCH --job-name=trajquant-head
#SBATCH --comment=head
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=4000
#SBATCH --time=1-00:00:00
#SBATCH --no-requeue
#SBATCH --signal=B:INT@120
#SBATCH --output=trajquant-head-%j.log
set -euo pipefail
study=$1
shift
export TRAJQUANT_HEAD_JOB=$SLURM_JOB_ID # for `make recover`, which asks Slurm whether this head is alive
for name in $(compgen -v SLURM_ | grep -v '^SLURM_CONF$'); do unset "$name"; done # they would shape the jobs' own requests
set -m # or the shell would start Snakemake deaf to SIGINT
.venv/bin/snakemake --profile slurm "$@" --configfile "$study" &
head=$!
trap 'kill -INT $head' INT
wait $head || wait $head # the first wait ends at the signal, the second when Snakemake has cancelled its jobs
