#!/bin/bash
# An experiment in shares on Slurm, without Ray. Submits four jobs, each of which waits for the one before it:
#   OUT=/shared/gpt2 SHARES=16 docs/slurm/jumplens.sh --model gpt2 --train 90000 --val 3000 --pairs to-final
# OUT is a folder that all nodes see; the options are those of `jumplens moments`. CASTS (id,mat by default) says what is fitted and
# measured. Given again after a failure, it goes on with what is not done.
#SBATCH --job-name=jumplens
#SBATCH --cpus-per-task=4
set -euo pipefail
export OUT=${OUT:?give a folder that all nodes see} SHARES=${SHARES:-4} CASTS=${CASTS:-id,mat}
share=${SLURM_ARRAY_TASK_ID:-}
run() { jumplens --threads "${SLURM_CPUS_PER_TASK:-1}" "$@"; }

case ${1:-} in
sums | maps | predictions | tables) stage=$1 && shift ;;
*) stage=submit ;;
esac
case $stage in
submit)
    mkdir -p "$OUT"
    sums=$(sbatch --parsable --array=1-"$SHARES" "$0" sums "$@")
    maps=$(sbatch --parsable --dependency=afterok:"$sums" "$0" maps)
    predictions=$(sbatch --parsable --array=1-"$SHARES" --dependency=afterok:"$maps" "$0" predictions)
    sbatch --parsable --dependency=afterok:"$predictions" "$0" tables
    ;;
sums) # A share's samples, states and sums.
    run moments "$@" --casts "$CASTS" --shard "$share/$SHARES" --out "$OUT/share-$share"
    ;;
maps) # One job: the sums of all shares, and the maps.
    [ -e "$OUT/result/shortcuts" ] || {
        run merge "$OUT"/share-*/moments.safetensors --out "$OUT/sums.safetensors" --overwrite
        run fit --moments "$OUT/sums.safetensors" --casts "$CASTS" --out "$OUT/fitting" --overwrite
        mv "$OUT/fitting" "$OUT/result"
    }
    ;;
predictions) # A share's validation samples.
    part=$OUT/predictions-$share.safetensors
    [ -e "$part" ] ||
        run evaluate --casts "$CASTS" --shard "$share/$SHARES" --shortcuts "$OUT/result" --part "$part" --out "$OUT/share-$share"
    ;;
tables) # One job: tables, figures, report.
    run evaluate --out "$OUT/result" --merge "$OUT"/predictions-*.safetensors --overwrite
    run plot --out "$OUT/result"
    ;;
esac
