#!/bin/sh
# test_calibrate.sh BINARY [COMPILER] - examples/calibrate.c on the sample, on files, and on bad
# input. Run from the root of the repository.
# shellcheck disable=SC2086 # a compiler may come with flags
set -u
case ${1:?usage: tests/test_calibrate.sh BINARY [COMPILER]} in
/*) bin=$1 ;;
*) bin=$PWD/$1 ;;
esac
sample=$PWD/tests/data/smollm2-135m-l10-l20
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
passed=0
failed=0

# check WHAT COMMAND...: the command succeeds.
check() {
    what=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "failed: $what" >&2
        [ ! -s "$dir/stderr" ] || sed 's/^/    /' "$dir/stderr" >&2
    fi
}

# Runs the program; its exit code is in $code.
run() {
    "$bin" "$@" >"$dir/stdout" 2>"$dir/stderr"
    code=$?
}

# One line on stderr that holds $1, exit code 1, and nothing left of the output.
refused() {
    [ "$code" -eq 1 ] && [ "$(wc -l <"$dir/stderr")" -eq 1 ] &&
        grep -q '^calibrate: ' "$dir/stderr" && grep -qF -- "$1" "$dir/stderr" &&
        [ ! -e "$dir/out" ] && [ -z "$(find "$dir" -name '*.tmp')" ]
}

# plain MESSAGE ARGUMENTS...: must be refused so.
plain() {
    message=$1
    shift
    run "$@"
    check "refused with '$message': $*" refused "$message"
}

# bad MESSAGE ARGUMENTS...: as plain, with an output file.
bad() {
    message=$1
    shift
    plain "$message" "$@" --out "$dir/out"
}

# good GROUPS ARGUMENTS...: makes a file that --show lists, of so many groups.
good() {
    groups=$1
    shift
    run "$@" --out "$dir/good"
    check "accepted: $*" [ "$code" -eq 0 ]
    check "no .tmp left: $*" [ ! -e "$dir/good.tmp" ]
    run --show "$dir/good"
    check "shown: $*" [ "$code" -eq 0 ]
    check "$groups groups: $*" \
        [ "$(grep -c '^K\?V\? .*[0-9a-f]\{32\}$' "$dir/stdout")" -eq "$groups" ]
}

# tensor FILE SOURCE SHAPE BYTES SKIP: f16 from the sample, zeros without a source.
tensor() {
    {
        printf '\223NUMPY\001\000\166\000'
        printf '%-117s\n' "{'descr': '<f2', 'fortran_order': False, 'shape': ($3), }"
        dd if="$2" bs=128 skip=$((1 + $5 / 128)) count=$(($4 / 128)) 2>/dev/null
    } >"$1"
}

# ---- the sample
cd "$dir" || exit 1
plain 'not here' # no sample in this directory
cd "$OLDPWD" || exit 1
run
check "the sample" [ "$code" -eq 0 ]
check "the sample's table" [ "$(grep -c '^step ' "$dir/stdout")" -eq 6 ]
# columns: "step" S "calibrated" or "no" "calibration", bits of K, error, bits of V, error
# shellcheck disable=SC2016 # the columns are of awk
check "calibrated K: fewer bits and a smaller error at every step; V: fewer bits" awk '
    $3 == "calibrated" { k = $4; e = $5; v = $6; n++ }
    $3 == "no" && !(k < $5 && e < $6 && v < $7) { bad = 1 }
    END { exit bad || n != 3 }' "$dir/stdout"
good 4 # the sample, with --out
cp "$dir/good" "$dir/first"
good 4
check "the same file again, over the old one" cmp -s "$dir/good" "$dir/first"
good 2 --group 2
good 2 --group 3
good 12 --group head --beta 0 --step 0.35 --sinks 0

# ---- files: 1 layer, 1 head, 256 tokens of the sample, and its 9 query heads on 3 heads
for s in k v; do
    tensor "$dir/$s.npy" "$sample-$s.npy" '1, 1, 256, 64' 32768 0
    tensor "$dir/$s-more.npy" "$sample-$s.npy" '1, 1, 128, 64' 16384 32768
done
k=$dir/k.npy
v=$dir/v.npy
q=$dir/q.npy
tensor "$q" "$sample-q.npy" '1, 3, 64, 64' 24576 0
good 2 --k "$k" --v "$v" --q "$q"
check "RoPE is told" grep -q 'half-split' "$dir/stdout"
cp "$dir/good" "$dir/first"
good 2 --q "$q" --v "$v" --k "$k" --theta 100000 --layout half --group layer --step 0.2 \
    --beta 0.5 --sinks 4
check "the defaults are what --help says" cmp -s "$dir/good" "$dir/first"
good 2 --k "$k" --v "$v"
check "queries count" sh -c "! cmp -s '$dir/good' '$dir/first'"
cp "$dir/good" "$dir/first"
good 2 --k "$k" --v "$v" --q "$q" --beta 0
check "beta 0: queries are only kept, 129 bytes of a head" \
    [ $(($(wc -c <"$dir/good") - $(wc -c <"$dir/first"))) -le 132 ]
good 1 --k "$k" --no-rope
check "no RoPE is told" grep -q 'no RoPE' "$dir/stdout"
good 1 --v "$v"
good 2 --k "$k" --v "$v" --layout adjacent --theta 10000 --group 5
run --k "$k" --v "$v" --k "$dir/k-more.npy" --v "$dir/v-more.npy" --out "$dir/good"
check "two texts" [ "$code" -eq 0 ]
check "two texts add up" grep -q ' from 376 tokens$' "$dir/stdout"
run --k "$sample-k.npy" --v "$sample-v.npy" --q "$sample-q.npy" --out "$dir/good"
check "the sample as files" [ "$code" -eq 0 ]
check "all tokens count" grep -q ' from 764 tokens$' "$dir/stdout"
tensor "$dir/x" /dev/zero '1, 1, 256, 64' 32768 0
good 1 --k "$dir/x"

# ---- keys and values in one basis
run --joint
check "the sample, joint" [ "$code" -eq 0 ]
check "the sample's joint table" [ "$(grep -c '^step .* calibrated ' "$dir/stdout")" -eq 3 ]
# shellcheck disable=SC2016 # the columns are of awk
check "finer steps: more bits, smaller errors" awk '
    $1 == "step" { bad += n && !($4 < bits && $5 > k && $6 > v); n++; bits = $4; k = $5; v = $6 }
    END { exit bad || n != 3 }' "$dir/stdout"
good 2 --joint
good 1 --joint --group 2 --ratio 3 --tolerance 0.05 --step 0.5 --model smollm2
check "both streams" grep -q '^KV *0-1 *0-2 *768 ' "$dir/stdout"
good 1 --joint --k "$k" --v "$v" --q "$q" --group 7
cp "$dir/good" "$dir/first"
good 1 --joint --k "$k" --v "$v" --q "$q" --group 7 --ratio 1.4 --tolerance 0.02
check "the defaults are what --help says, joint" cmp -s "$dir/good" "$dir/first"
good 1 --joint --k "$k" --v "$v" --q "$q" --model other
check "the model's name is in it" sh -c "! cmp -s '$dir/good' '$dir/first'"
good 1 --joint --k "$k" --v "$v" --no-rope
"$bin" --joint --k "$k" --v "$v" --k "$dir/k-more.npy" --v "$dir/v-more.npy" --out "$dir/good" \
    >"$dir/stdout" 2>"$dir/stderr"
check "two texts add up, joint" grep -q ' from 376 tokens$' "$dir/stdout"
bad '--joint wants --k and --v' --joint --k "$k"
bad '--joint wants --k and --v' --joint --v "$v"
bad '--joint wants layers' --joint --k "$k" --v "$v" --group head
bad '--ratio wants --joint' --k "$k" --v "$v" --ratio 2
bad 'wants a number' --joint --k "$k" --v "$v" --ratio 17
bad 'wants a number' --joint --k "$k" --v "$v" --tolerance 0
bad 'too few to fit to' --joint --k "$k" --v "$v" --sinks 250
tensor "$dir/x" "$sample-v.npy" '1, 1, 255, 64' 32640 0
bad 'wrong shape, layers or tokens' --joint --k "$k" --v "$dir/x"
tensor "$dir/x" "$sample-k.npy" '150, 1, 2, 64' 38400 0
bad 'too many for one group' --joint --k "$dir/x" --v "$dir/x" --group 150

# ---- the same numbers in other forms: the same profiles
cc=${2-${CC-cc}}
check "make_npy compiles" $cc -O2 tests/make_npy.c -o "$dir/make_npy" -lm
for s in k v q; do # bf16 holds these numbers, and f16 some of them
    tensor "$dir/$s-f2.npy" "$sample-$s.npy" '2, 3, 256, 8' 24576 0
    "$dir/make_npy" as '<V2' C 4 "$dir/$s-f2.npy" "$dir/$s-V2.npy"
done
for like in f2 V2; do
    run --k "$dir/k-$like.npy" --v "$dir/v-$like.npy" --q "$dir/q-$like.npy" --out "$dir/like-$like"
    check "fits: $like" [ "$code" -eq 0 ]
done
check "bf16 has other numbers" sh -c "! cmp -s '$dir/like-f2' '$dir/like-V2'"
for form in 'f2 >f2 C 4' 'f2 >f4 F 5' 'f2 <f8 C 6' 'f2 <f2 F 6' 'V2 <f4 F 4' 'V2 >f8 C 5' \
    'V2 bfloat16 F 5' 'V2 >V2 C 6'; do
    set -- $form
    for s in k v q; do
        "$dir/make_npy" as "$2" "$3" "$4" "$dir/$s-$1.npy" "$dir/$s-form.npy"
    done
    run --k "$dir/k-form.npy" --v "$dir/v-form.npy" --q "$dir/q-form.npy" --out "$dir/good"
    check "the same profiles: $form" cmp -s "$dir/good" "$dir/like-$1"
done
run --k "$k" --v "$v" --q "$q" --out "$dir/first"
for s in k v q; do
    "$dir/make_npy" as '<f4' F 3 "$dir/$s.npy" "$dir/$s-form.npy"
done
run --k "$dir/k-form.npy" --v "$v" --q "$dir/q-form.npy" --k "$k" --v "$dir/v-form.npy" --q "$q" \
    --out "$dir/x"
check "3 axes beside 4" [ "$code" -eq 0 ]
run --joint --k "$k" --v "$dir/v-form.npy" --q "$q" --out "$dir/good"
run --joint --k "$k" --v "$v" --q "$q" --out "$dir/x"
check "keys and values of different types, joint" cmp -s "$dir/good" "$dir/x"
run --k "$dir/k-form.npy" --v "$dir/v-form.npy" --q "$dir/q-form.npy" --out "$dir/good"
check "one layer without its axis" cmp -s "$dir/good" "$dir/first"

# ---- command line
run --help
check "--help" [ "$code" -eq 0 ]
check "--help says how" grep -q '^usage: ' "$dir/stdout"
plain 'unknown option' --frobnicate 1
plain 'unknown option' stray
plain 'wants a value' --k
plain 'wants a value' --k "$k" --show
plain 'named twice' --k "$k" --out "$k"
plain 'every --q wants its --k' --q "$q" --out "$dir/out"
bad 'every --q wants its --k' --v "$v" --q "$q"
bad 'every --k wants its --v' --k "$k" --k "$k" --v "$v"
plain '--out wants' --k "$k"
plain '--show wants' --show "$dir/first" --out "$dir/out"
bad 'wants a number' --k "$k" --step 0
bad 'wants a number' --k "$k" --step nan
bad 'wants a number' --k "$k" --beta 1.5
bad 'wants a number' --k "$k" --theta inf
bad 'wants a whole number' --k "$k" --group 0
bad 'wants a whole number' --k "$k" --group heads
bad 'wants a whole number' --k "$k" --sinks -1
bad 'wants half or adjacent' --k "$k" --layout full
bad 'too few for 1000 sinks' --sinks 1000
bad 'too few to fit to' --k "$k" --sinks 250
bad 'too few to fit to' --k "$k" --sinks 1000

# ---- bad files
bad 'cannot open' --k "$dir/none"
bad 'not a .npy file' --k "$dir/first"
tensor "$dir/x" "$sample-k.npy" '256, 64' 32768 0
bad 'shape (256, 64), 2 axes, not that of a KV cache: wanted [layers]' --k "$dir/x"
tensor "$dir/x" "$sample-k.npy" '2, 2, 1, 64, 64' 32768 0
bad '5 axes, a batch of more than 1: wanted [layers]' --k "$dir/x"
tensor "$dir/y" "$sample-k.npy" '1, 1, 256, 64' 32768 0
sed "s/'<f2'/'<i2'/" "$dir/y" >"$dir/x"
bad "dtype '<i2', not f16, bf16, f32 or f64: wanted '<f2'" --k "$dir/x"
tensor "$dir/x" "$sample-k.npy" '1, 1, 257, 64' 32768 0
bad 'cut short' --k "$dir/x"
tensor "$dir/x" "$sample-k.npy" '1, 1, 255, 64' 32640 0
bad 'wrong shape, layers or tokens' --k "$k" --v "$dir/x"
tensor "$dir/x" "$sample-k.npy" '1, 2, 128, 64' 32768 0
bad 'wrong shape, layers, heads or dim' --k "$k" --k "$dir/x"
bad 'wrong shape, not queries' --k "$dir/x" --q "$q"
tensor "$dir/x" "$sample-k.npy" '1, 4, 128, 63' 64512 0
bad 'odd dim (--no-rope' --k "$dir/x"
tensor "$dir/x" "$sample-k.npy" '300, 1, 1, 64' 38400 0
bad 'too many for one group' --k "$dir/x" --group 300
tensor "$dir/x" "$sample-k.npy" '1, 1, 256, 64' 32640 0
printf '%064d' 0 | sed 's/0/~~/g' >>"$dir/x" # 0x7e7e: NaN
bad 'NaN or infinity at layer 0, head 0, token 255, dim 0' --k "$dir/x"
bad 'NaN or infinity' --k "$k" --v "$dir/x"
run --k "$k" --out "$dir/no/such/model.lqp"
check "no directory" refused 'cannot write'

# ---- --show of what is not one, or is damaged
plain 'cannot open' --show "$dir/none"
plain 'not a whole archive' --show "$k"
: >"$dir/x"
plain 'not a whole archive' --show "$dir/x"
"$bin" --show "$dir/first" >"$dir/listing" 2>/dev/null
sed 1d "$dir/listing" >"$dir/groups"
size=$(wc -c <"$dir/first")
for n in 1 31 32 33 1000 $((size / 2)) $((size - 49)) $((size - 48)) $((size - 1)); do
    dd if="$dir/first" of="$dir/x" bs="$n" count=1 2>/dev/null
    plain 'not a whole archive' --show "$dir/x"
done

# An altered file is refused, or the byte was one that means nothing.
noticed() {
    if [ "$code" -eq 0 ]; then
        sed 1d "$dir/stdout" | cmp -s - "$dir/groups"
    else
        refused "$dir/x: "
    fi
}

at=0
while [ "$at" -lt "$size" ]; do # one byte altered, everywhere in turn
    cp "$dir/first" "$dir/x"
    old=$(dd if="$dir/first" bs=1 skip="$at" count=1 2>/dev/null | od -An -tu1 | tr -d ' ')
    # shellcheck disable=SC2059 # the byte is an octal format
    printf "\\$(printf '%03o' $(((old + 37) % 256)))" |
        dd of="$dir/x" bs=1 seek="$at" count=1 conv=notrunc 2>/dev/null
    run --show "$dir/x"
    check "byte $at altered" noticed
    at=$((at + size / 60))
done

echo "calibrate: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
