#!/bin/sh
# test_pack_kv.sh BINARY [COMPILER] - every error path of examples/pack_kv.c, and round trips.
# The compiler makes examples/calibrate.c, whose profiles pack_kv takes.
# Run from the root of the repository.
# shellcheck disable=SC2016,SC2086 # programs in quotes; a compiler may come with flags
set -u
case ${1:?usage: tests/test_pack_kv.sh BINARY [COMPILER]} in
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
        grep -q '^pack_kv: ' "$dir/stderr" && grep -qF -- "$1" "$dir/stderr" &&
        [ ! -e "$dir/out" ] && [ -z "$(find "$dir" -name '*.tmp')" ]
}

# bad MESSAGE ARGUMENTS...: packing must be refused so.
bad() {
    message=$1
    shift
    run "$@" --out "$dir/out"
    check "refused with '$message': $*" refused "$message"
}

# plain MESSAGE ARGUMENTS...: as bad, with no --out added.
plain() {
    message=$1
    shift
    run "$@"
    check "refused with '$message': $*" refused "$message"
}

# trip WHAT PROFILES TIMES ARGUMENTS...: to $dir/kv.lq with profiles, in fewer bytes than $size over
# TIMES, and back to $dir/k1.npy and v1.npy.
trip() {
    kind=$1
    profiles=$2
    times=$3
    shift 3
    run --profile "$profiles" "$@" --out "$dir/kv.lq"
    check "packs with $kind" [ "$code" -eq 0 ]
    check "verified with $kind" grep -q '^verified' "$dir/stdout"
    check "fewer bytes with $kind" [ $((times * $(wc -c <"$dir/kv.lq"))) -lt "$size" ]
    run --unpack "$dir/kv.lq" --profile "$profiles" --k "$dir/k1.npy" --v "$dir/v1.npy"
    check "unpacks with $kind" [ "$code" -eq 0 ]
    for s in k v; do
        check "size of $s, $kind" [ "$(wc -c <"$dir/${s}1.npy")" -eq "$(wc -c <"$sample-$s.npy")" ]
        check "sinks of $s are raw, $kind" cmp -s -n 640 "$dir/${s}1.npy" "$sample-$s.npy"
    done
}

good() {
    run "$@" --out "$dir/good"
    check "accepted: $*" [ "$code" -eq 0 ]
    check "verified: $*" grep -q '^verified' "$dir/stdout"
    check "no .tmp left: $*" [ ! -e "$dir/good.tmp" ]
}

# header FILE TEXT: a version 1.0 header of 128 bytes.
header() {
    { printf '\223NUMPY\001\000\166\000' && printf '%-117s\n' "$2"; } >"$1"
}

# numbers FILE BYTES SOURCE SKIP: appends bytes of a file.
numbers() {
    [ "$2" -eq 0 ] || dd if="$3" bs=1 skip="$4" count="$2" 2>/dev/null >>"$1"
}

# npy FILE DESCR FORTRAN SHAPE BYTES: zeros.
npy() {
    header "$1" "{'descr': '$2', 'fortran_order': $3, 'shape': ($4), }"
    numbers "$1" "$5" /dev/zero 0
}

cc=${2-${CC-cc}}
check "make_npy compiles" $cc -O2 tests/make_npy.c -o "$dir/make_npy" -lm

# ---- small inputs that are good: 1 layer, 1 head, 96 tokens of the sample
k=$dir/k.npy
v=$dir/v.npy
q=$dir/q.npy
for s in k v; do
    header "$dir/$s.npy" "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 1, 96, 64), }"
    numbers "$dir/$s.npy" 12288 "$sample-$s.npy" 128
done
header "$q" "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 1, 8, 64), }"
numbers "$q" 1024 "$sample-q.npy" 128
good --k "$k" --v "$v" --q "$q"
good --k "$k"
good --v "$v"
good --k "$k" --v "$v" --quantizer d4
good --k "$k" --v "$v" --quantizer e8 --rope adjacent --theta 10000
good --k "$k" --v "$v" --rope none --sinks 0 --step 0.3 --vstep 0.2
good --k "$k" --v "$v" --sinks 500
good --k "$k" --v "$v" --bytes 6000
size=$(wc -c <"$dir/good")
check "--bytes within 1 %" [ "$size" -le 6000 ]
check "--bytes within 1 %" [ "$size" -ge 5940 ]
good --k "$k" --v "$v" --bits 3.5
npy "$dir/x" '<f4' False '2, 3, 70, 8' 13440
good --k "$dir/x"
npy "$dir/x" '<f2' False '1, 1, 1, 1' 2
good --k "$dir/x" --rope none
npy "$dir/x" '<f2' False '1, 9, 5, 1000' 90000
good --k "$dir/x"

# ---- the sample: there, back, and no file but those asked for
here=$PWD
mkdir "$dir/work"
cd "$dir/work" || exit 1
plain 'not here' # no sample in this directory
cd "$here" || exit 1
run --out "$dir/kv.lq"
check "the sample packs" [ "$code" -eq 0 ]
check "the sample is verified" grep -q '^verified' "$dir/stdout"
run --unpack "$dir/kv.lq" --k "$dir/k1.npy" --v "$dir/v1.npy"
check "the sample unpacks" [ "$code" -eq 0 ]
run --unpack "$dir/kv.lq" --v "$dir/v2.npy"
check "V alone unpacks" [ "$code" -eq 0 ]
check "V alone is the same V" cmp -s "$dir/v1.npy" "$dir/v2.npy"
for s in k v; do
    check "size of $s" [ "$(wc -c <"$dir/${s}1.npy")" -eq "$(wc -c <"$sample-$s.npy")" ]
    # header and the 4 raw tokens of the first head
    check "sinks of $s are raw" cmp -s -n 640 "$dir/${s}1.npy" "$sample-$s.npy"
    check "$s is not raw" sh -c "! cmp -s '$dir/${s}1.npy' '$sample-$s.npy'"
done
cp "$dir/kv.lq" "$dir/first.lq"
run --out "$dir/kv.lq"
check "the same archive again, over the old one" cmp -s "$dir/kv.lq" "$dir/first.lq"

# ---- command line
run --help
check "--help" [ "$code" -eq 0 ]
check "--help says how" grep -q '^usage: ' "$dir/stdout"
plain 'unknown option' --frobnicate 1
plain 'unknown option' stray
plain 'wants a value' --k
plain 'named twice' --k "$k" --v "$k"
plain 'named twice' --k "$k" --out "$k"
plain '--q needs --k' --q "$q"
plain 'wants a number' --k "$k" --step 0
plain 'wants a number' --k "$k" --step 1x
plain 'wants a number' --k "$k" --step nan
plain 'wants a number' --k "$k" --bits -1
plain 'wants a whole number' --k "$k" --bytes 1.5
plain 'wants a whole number' --k "$k" --sinks -1
plain 'wants a number' --k "$k" --theta inf
plain 'wants half, adjacent or none' --k "$k" --rope full
plain 'wants z, d4, e8, e8r, t8 or t64' --k "$k" --quantizer e7
plain 'give one of' --k "$k" --step 1 --bits 2
plain '--unpack wants' --unpack "$dir/kv.lq"
plain '--unpack wants' --unpack "$dir/kv.lq" --k "$dir/out" --q "$q"
plain '--unpack wants' --unpack "$dir/kv.lq" --k "$dir/out" --out "$dir/o"
bad 'no step makes' --k "$k" --bytes 100
bad 'no step makes' --k "$k" --bits 30
bad 'too many steps' --k "$k" --step 0.000001
bad 'too many steps' --v "$v" --vstep 0.000001
# keys of 1e30 and -1e30 by turns: 1e9 times their deviation is no step
header "$dir/x" "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 96, 8), }"
row='\0312\0362\0111\0161\0312\0362\0111\0161\0312\0362\0111\0161\0312\0362\0111\0161'
i=0
while [ "$i" -lt 48 ]; do
    printf '%b' "$row$row$(printf '%s' "$row$row" | sed 's/0161/0361/g')" >>"$dir/x"
    i=$((i + 1))
done
bad 'step: 2^-100 to 2^100' --k "$dir/x" --step 1000000000

# ---- .npy
bad 'cannot open' --k "$dir/none"
bad 'cannot open' --k "$k" --v "$dir/none"
: >"$dir/x"
bad 'not a .npy file' --k "$dir/x"
bad 'not a .npy file' --k "$dir/kv.lq"
printf '\223NUMPY\011\000\001\000{' >"$dir/x"
bad 'version 9.0' --k "$dir/x"
printf '\223NUMPY\001\000\166\000{' >"$dir/x"
bad 'cut short in the .npy header' --k "$dir/x"
printf '\223NUMPY\002\000\166\000' >"$dir/x"
bad 'header is malformed' --k "$dir/x"
printf '\223NUMPY\002\000\377\377\377\377' >"$dir/x"
bad 'header is malformed' --k "$dir/x"
for text in '' '{' '{}' 'x' "{'descr': '<f2'" "{'descr': '<f2', 'shape': (1, 1, 1, 2), }" \
    "{'descr': <f2, 'fortran_order': False, 'shape': (1, 1, 1, 2), }" \
    "{'descr': '<f2', 'fortran_order': Maybe, 'shape': (1, 1, 1, 2), }" \
    "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 1, 1, 2, }" \
    "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 1, -1, 2), }" \
    "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 1 1, 2), }" \
    "{'descr': '<f2', 'descr': '<f2', 'fortran_order': False, 'shape': (1, 1, 1, 2), }" \
    "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 1, 1, 2), 'x': 1}" \
    "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 1, 1, 2)} junk"; do
    header "$dir/x" "$text"
    numbers "$dir/x" 4 /dev/zero 0
    bad 'header is malformed' --k "$dir/x"
done
for descr in '<i2' '|f2' '|V1' '<V4' '<f16' '<c8' '|O' float8_e4m3fn; do
    npy "$dir/x" "$descr" False '1, 1, 1, 2' 4
    bad "dtype '$descr', not f16, bf16, f32 or f64: wanted '<f2'" --k "$dir/x"
done
header "$dir/x" "{'descr': [('a', '<f2')], 'fortran_order': False, 'shape': (1, 1, 1, 2), }"
numbers "$dir/x" 4 /dev/zero 0
bad 'a structured dtype, not one number an element' --k "$dir/x"
npy "$dir/x" '<f2' False '' 2
bad 'shape (), 0 axes, not that of a KV cache: wanted [layers][heads][tokens][dim]' --k "$dir/x"
npy "$dir/x" '<f2' True '1, 2' 4
bad 'shape (1, 2), 2 axes, not that of' --k "$dir/x"
npy "$dir/x" '<f2' False '2, 3, 1, 1, 2' 24
bad 'shape (2, 3, 1, 1, 2), 5 axes, a batch of more than 1: wanted' --k "$dir/x"
npy "$dir/x" '<f2' False '1, 1, 1, 1, 1, 2' 4
bad '6 axes' --k "$dir/x"
printf 'PK\003\004 an archive of arrays' >"$dir/x"
bad 'a zip archive (.npz, .pt)' --k "$dir/x"
npy "$dir/x" '<f2' False '1, 0, 1, 2' 0
bad 'the shape has a 0 (heads)' --k "$dir/x"
npy "$dir/x" '<f2' False '4294967296, 4294967296, 1, 2' 4
bad 'shape is too large' --k "$dir/x"
npy "$dir/x" '<f2' False '1, 1, 99999999999999999999999, 2' 4
bad 'shape is too large' --k "$dir/x"
npy "$dir/x" '<f2' False '1, 1, 1, 16400' 32800
bad '16400 dim, more than 16384' --k "$dir/x"
npy "$dir/x" '<f2' False '70000, 1, 1, 2' 280000
bad 'layers, more than 65535' --k "$dir/x"
npy "$dir/x" '<f2' False '60000, 60000, 2000000, 8' 16
bad 'cut short' --k "$dir/x"
npy "$dir/x" '<f2' False '1, 1, 1, 2' 3
bad 'cut short (3 bytes of numbers, the shape wants 4)' --k "$dir/x"
npy "$dir/x" '<f2' False '1, 1, 1, 2' 5
bad 'bytes behind the numbers' --k "$dir/x"
for bits in '\000\176' '\000\174' '\001\374'; do
    npy "$dir/x" '<f2' False '1, 1, 2, 2' 6
    # shellcheck disable=SC2059 # the bytes are an octal format
    printf "$bits" >>"$dir/x"
    bad 'NaN or infinity at layer 0, head 0, token 1, dim 1' --k "$dir/x"
    bad 'NaN or infinity' --v "$dir/x"
done
npy "$dir/x" '<f4' False '1, 1, 2, 2' 12
printf '\000\000\200\177' >>"$dir/x"
bad 'NaN or infinity at layer 0, head 0, token 1, dim 1' --k "$dir/x"
# f64: infinity, 2^128, and NaN second in Fortran order; bf16: infinity
for end in '\360\177 NaN' '\360\107 large' '\370\377 NaN'; do
    npy "$dir/x" '<f8' False '1, 1, 2, 2' 30
    # shellcheck disable=SC2059 # the bytes are an octal format
    printf "${end% *}" >>"$dir/x"
    bad "${end#* }" --k "$dir/x"
    check "it is told where" grep -q ' at layer 0, head 0, token 1, dim 1$' "$dir/stderr"
done
npy "$dir/x" '<f8' True '1, 1, 2, 2' 14
printf '\370\177' >>"$dir/x"
numbers "$dir/x" 16 /dev/zero 0
bad 'NaN or infinity at layer 0, head 0, token 1, dim 0' --k "$dir/x"
npy "$dir/x" '>V2' False '1, 1, 1, 2' 2
printf '\177\200' >>"$dir/x"
bad 'NaN or infinity at layer 0, head 0, token 0, dim 1' --k "$dir/x"

# ---- the same numbers in other forms: the same archive
header "$dir/k-f2.npy" "{'descr': '<f2', 'fortran_order': False, 'shape': (2, 3, 70, 8), }"
numbers "$dir/k-f2.npy" 6720 "$sample-k.npy" 128
"$dir/make_npy" as '<V2' C 4 "$dir/k-f2.npy" "$dir/k-V2.npy"
"$dir/make_npy" as '<f4' C 4 "$dir/k-V2.npy" "$dir/k-f4.npy"
for like in f2 f4 V2; do
    run --k "$dir/k-$like.npy" --out "$dir/like-$like"
    check "packs: $like" [ "$code" -eq 0 ]
    grep '^verified' "$dir/stdout" >"$dir/lost-$like"
done
for form in 'f2 >f2 C' 'f2 <f2 F' 'f2 >f2 F' 'f4 >f4 C' 'f4 <f8 C' 'f4 >f8 F' 'V2 |V2 C' \
    'V2 >V2 F' 'V2 bfloat16 F' 'V2 <bfloat16 C' 'V2 >bfloat16 C'; do
    set -- $form
    "$dir/make_npy" as "$2" "$3" 4 "$dir/k-$1.npy" "$dir/x"
    check "another form: $form" sh -c "! cmp -s '$dir/x' '$dir/k-$1.npy'"
    good --k "$dir/x"
    check "the same archive: $form" cmp -s "$dir/good" "$dir/like-$1"
done
check "bf16 loses what f32 of these numbers does" cmp -s "$dir/lost-V2" "$dir/lost-f4"
run --unpack "$dir/like-V2" --k "$dir/x"
check "bf16 comes back, its sinks raw" cmp -s -n 192 "$dir/x" "$dir/k-V2.npy"
check "all of it" [ "$(wc -c <"$dir/x")" -eq "$(wc -c <"$dir/k-V2.npy")" ]
good --k "$dir/x"

# ---- 3 and 5 axes: the same numbers come back in the axes that were there
run --unpack "$dir/like-f2" --k "$dir/y"
for axes in 5 6; do
    "$dir/make_npy" as '<f2' C "$axes" "$dir/k-f2.npy" "$dir/x"
    good --k "$dir/x"
    run --unpack "$dir/good" --k "$dir/k1.npy"
    check "$axes: the header comes back" cmp -s -n 128 "$dir/k1.npy" "$dir/x"
    check "$axes: the numbers are those of 4" cmp -s -i 128 "$dir/k1.npy" "$dir/y"
done
"$dir/make_npy" as '<f2' C 3 "$k" "$dir/k3.npy"
"$dir/make_npy" as '>f4' F 3 "$v" "$dir/v3.npy"
"$dir/make_npy" as '<f8' F 5 "$q" "$dir/q5.npy"
good --k "$k" --v "$v" --q "$q"
grep '^  ours' "$dir/stdout" >"$dir/y"
good --k "$dir/k3.npy" --v "$dir/v3.npy" --q "$dir/q5.npy"
grep '^  ours' "$dir/stdout" >"$dir/x"
check "the table is that of 4 axes" sh -c "cut -c 1-58 '$dir/y' >'$dir/numbers'
    cut -c 1-58 '$dir/x' | cmp -s - '$dir/numbers'"
run --unpack "$dir/good" --k "$dir/k1.npy"
check "3: the header comes back" cmp -s -n 128 "$dir/k1.npy" "$dir/k3.npy"
check "3: sinks are raw" cmp -s -n 640 "$dir/k1.npy" "$dir/k3.npy"

# ---- shapes that do not fit together
npy "$dir/x" '<f2' False '1, 1, 95, 64' 12160
bad 'wrong shape, layers or tokens' --k "$k" --v "$dir/x"
bad 'wrong shape, not queries' --k "$dir/x" --q "$k"
npy "$dir/x" '<f2' False '2, 1, 8, 64' 2048
bad 'wrong shape, not queries' --k "$k" --q "$dir/x"
npy "$dir/x" '<f2' False '1, 1, 8, 32' 512
bad 'wrong shape, not queries' --k "$k" --q "$dir/x"
npy "$dir/x" '<f2' False '1, 2, 8, 8' 256
npy "$dir/y" '<f2' False '1, 3, 8, 8' 384
bad 'wrong shape, not queries' --k "$dir/x" --q "$dir/y"
npy "$dir/x" '<f2' False '1, 1, 2, 3' 12
bad 'odd dim' --k "$dir/x"

# ---- paths that cannot be written
run --k "$k" --out "$dir/no/such/kv.lq"
check "no directory" refused 'cannot write'
run --k "$k" --out "$dir/work"
check "a directory" refused 'cannot write'
run --unpack "$dir/kv.lq" --k "$dir/no/such/k.npy"
check "unpack, no directory" refused 'cannot write'
if [ -c /dev/null ]; then
    run --k "$k" --out /dev/null
    check "a device" refused 'not a regular file'
    check "the device is still one" [ -c /dev/null ]
fi
if [ -c /dev/full ]; then
    "$bin" --help >/dev/full 2>"$dir/stderr"
    code=$?
    check "full standard output" refused 'standard output'
fi
(
    trap '' XFSZ 2>/dev/null
    ulimit -f 16 2>/dev/null || exit 1
    exec "$bin" --unpack "$dir/kv.lq" --k "$dir/out" >"$dir/stdout" 2>"$dir/stderr"
)
code=$?
check "a write that fails half-way" refused 'cannot write'
cp "$k" "$dir/out"
(
    trap '' XFSZ 2>/dev/null
    ulimit -f 16 2>/dev/null || exit 1
    exec "$bin" --unpack "$dir/kv.lq" --k "$dir/out" >"$dir/stdout" 2>"$dir/stderr"
)
check "the old file survives it" cmp -s "$k" "$dir/out"
rm -f "$dir/out"

# ---- archives
# An altered archive is refused, or the byte was one that means nothing (between aligned pages).
noticed() {
    if [ "$code" -eq 0 ]; then
        cmp -s "$dir/out" "$dir/small.npy"
    else
        refused "$dir/x: "
    fi
}

plain 'cannot open' --unpack "$dir/none" --k "$dir/out"
plain 'not a whole archive' --unpack "$k" --k "$dir/out"
: >"$dir/x"
plain 'not a whole archive' --unpack "$dir/x" --k "$dir/out"
run --k "$k" --out "$dir/small"
plain 'holds no V' --unpack "$dir/small" --v "$dir/out"
plain 'holds no V' --unpack "$dir/small" --k "$dir/out" --v "$dir/out2"
run --unpack "$dir/small" --k "$dir/small.npy"
check "the small archive unpacks" [ "$code" -eq 0 ]
size=$(wc -c <"$dir/small")
for n in 1 16 31 32 33 1000 $((size / 2)) $((size - 49)) $((size - 48)) $((size - 1)); do
    dd if="$dir/small" of="$dir/x" bs="$n" count=1 2>/dev/null
    plain 'not a whole archive' --unpack "$dir/x" --k "$dir/out"
done
cp "$dir/small" "$dir/x"
echo >>"$dir/x"
plain 'not a whole archive' --unpack "$dir/x" --k "$dir/out"
at=0
while [ "$at" -lt "$size" ]; do # one byte altered, everywhere in turn
    cp "$dir/small" "$dir/x"
    old=$(dd if="$dir/small" bs=1 skip="$at" count=1 2>/dev/null | od -An -tu1 | tr -d ' ')
    # shellcheck disable=SC2059 # the byte is an octal format
    printf "\\$(printf '%03o' $(((old + 37) % 256)))" |
        dd of="$dir/x" bs=1 seek="$at" count=1 conv=notrunc 2>/dev/null
    run --unpack "$dir/x" --k "$dir/out"
    check "byte $at altered" noticed
    rm -f "$dir/out"
    at=$((at + size / 60))
done

# ---- --calibrate: never larger; smaller on a text said six times over
good --k "$k" --q "$q" --calibrate
header "$dir/x" "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 3, 4608, 64), }"
for head in 0 1 2; do
    dd if="$sample-k.npy" of="$dir/head" bs=128 skip=$((1 + 768 * head)) count=768 2>/dev/null
    for _ in 1 2 3 4 5 6; do
        cat "$dir/head" >>"$dir/x"
    done
done
header "$dir/y" "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 9, 64, 64), }"
numbers "$dir/y" 73728 "$sample-q.npy" 128
good --k "$dir/x" --rope none --step 0.3
size=$(wc -c <"$dir/good")
good --k "$dir/x" --rope none --step 0.3 --calibrate --q "$dir/y"
check "--calibrate pays" [ "$(wc -c <"$dir/good")" -lt "$size" ]
run --unpack "$dir/good" --k "$dir/k1.npy"
check "it unpacks without any other file" [ "$code" -eq 0 ]
plain '--unpack wants' --unpack "$dir/kv.lq" --k "$dir/out" --calibrate
plain 'give one of --profile and --calibrate' --k "$k" --profile "$dir/none" --calibrate

# ---- --profile
$cc -O1 examples/calibrate.c -o "$dir/calibrate" -lm
"$dir/calibrate" --out "$dir/model.lqp" >/dev/null
"$dir/calibrate" --out "$dir/other.lqp" --beta 0 >/dev/null
"$dir/calibrate" --out "$dir/wide.lqp" --group 2 >/dev/null
run --out "$dir/good"
size=$(wc -c <"$dir/good")
trip profiles "$dir/model.lqp" 1
good --k "$sample-k.npy" --profile "$dir/model.lqp" --bits 1
good --v "$sample-v.npy" --profile "$dir/model.lqp" --quantizer e8
plain '--profile must name' --unpack "$dir/kv.lq" --k "$dir/out"
plain 'packed with other profiles' --unpack "$dir/kv.lq" --profile "$dir/other.lqp" --k "$dir/out"
plain 'has no group of the heads of layer 0 of K' --profile "$dir/wide.lqp" --out "$dir/out"
bad 'has no group' --k "$k" --profile "$dir/model.lqp"
bad 'another RoPE' --k "$sample-k.npy" --profile "$dir/model.lqp" --theta 10000
bad 'another RoPE' --k "$sample-k.npy" --profile "$dir/model.lqp" --rope none
bad 'not one of calibrated profiles' --k "$k" --profile "$dir/kv.lq"
bad 'not a whole archive' --k "$k" --profile "$sample-k.npy"
bad 'cannot open' --k "$k" --profile "$dir/none"
plain 'named twice' --profile "$dir/model.lqp" --out "$dir/model.lqp"

# ---- --profile of keys and values together
"$dir/calibrate" --joint --group 2 --model sample --out "$dir/joint.lqp" >/dev/null
"$dir/calibrate" --joint --group 1 --out "$dir/joint-1.lqp" >/dev/null
trip "joint profiles" "$dir/joint.lqp" 2 --model sample
run --unpack "$dir/kv.lq" --profile "$dir/joint.lqp" --v "$dir/v2.npy"
check "only the values" cmp -s "$dir/v1.npy" "$dir/v2.npy"
run --profile "$dir/joint-1.lqp" --bits 1.2 --out "$dir/good"
check "joint, one layer, so many bits" [ "$code" -eq 0 ]
plain '--profile must name' --unpack "$dir/kv.lq" --k "$dir/out"
plain 'packed with other profiles' --unpack "$dir/kv.lq" --profile "$dir/joint-1.lqp" \
    --k "$dir/out"
plain 'packed with other profiles' --unpack "$dir/kv.lq" --profile "$dir/model.lqp" \
    --k "$dir/out"
run --out "$dir/plain.lq"
plain 'packed with other profiles' --unpack "$dir/plain.lq" --profile "$dir/joint.lqp" \
    --k "$dir/out"
plain "the profile is another's" --profile "$dir/joint.lqp" --model other --out "$dir/out"
plain '--model wants' --profile "$dir/model.lqp" --model sample --out "$dir/out"
plain 'have one step' --profile "$dir/joint.lqp" --vstep 0.5 --out "$dir/out"
plain 'another RoPE' --profile "$dir/joint.lqp" --theta 10000 --out "$dir/out"
bad 'both are wanted' --k "$sample-k.npy" --profile "$dir/joint.lqp"
bad 'calibrated for another model' --k "$k" --v "$v" --profile "$dir/joint.lqp"
npy "$dir/x" '<f2' False '3, 3, 4, 64' 4608
cp "$dir/x" "$dir/x2"
bad 'has no group of the heads of layer 2' --k "$dir/x" --v "$dir/x2" --profile "$dir/joint.lqp"

# Archives that hold the mean and little else are no archives.
bad 'useless and removed' --k "$sample-k.npy" --step 40
bad 'useless and removed' --v "$sample-v.npy" --vstep 40

# A bias of norm 600 of layer 0's keys (before RoPE) and values: the same relative error of every
# layer within 5 %, the same bits within 3 %, whatever the profiles come from.
same='
    FNR == 1 { file++ }
    /^layer/ { layer = $2 }
    /^all/ { layer = "all" }
    /^  ours, / {
        for (i = 4; i <= 9; i++) {
            if (i == 6 || i == 7) continue
            key = layer " " $2 " " i
            if (file == 1) { was[key] = $i; continue }
            compared++
            ratio = $i / was[key]
            limit = i % 4 ? 1.05 : 1.03
            if (ratio > limit || ratio < 2 - limit) { print key, was[key], $i; bad = 1 }
        }
    }
    END { exit bad || compared != 9 * 3 * 4 }'
"$dir/make_npy" "$dir/plain" 0 0
"$dir/make_npy" "$dir/biased" 600 600
for data in plain biased; do
    set -- --k "$dir/$data-k.npy" --v "$dir/$data-v.npy" --q "$dir/$data-q.npy"
    "$dir/calibrate" "$@" --out "$dir/$data.lqp" >"$dir/$data.fit"
    for way in default --calibrate --profile; do
        case $way in
        default) run "$@" --out "$dir/good" ;;
        --calibrate) run "$@" --out "$dir/good" --calibrate ;;
        *) run "$@" --out "$dir/good" --profile "$dir/$data.lqp" ;;
        esac
        check "verified: $data, $way" grep -q '^verified: of K at most' "$dir/stdout"
        mv "$dir/stdout" "$dir/$data.$way"
    done
done
for way in default --calibrate --profile; do
    check "a bias changes nothing: $way" awk "$same" "$dir/plain.$way" "$dir/biased.$way"
done
# the expected bits and ranks that calibrate prints
check "a bias changes no profile" awk '
    FNR == 1 { file++ }
    /^[KV]: / {
        for (i = 1; i <= NF; i++) {
            x = $i + 0
            if (x == 0) continue
            if (file == 1) was[FNR " " i] = x
            else if (x / was[FNR " " i] > 1.03 || x / was[FNR " " i] < 0.97) { print; exit 1 }
        }
    }' "$dir/plain.fit" "$dir/biased.fit"

echo "pack_kv: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
