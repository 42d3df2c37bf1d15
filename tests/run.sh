#!/bin/sh
# sh tests/run.sh [quick]: builds and runs all tests; the last line is "N passed, N failed".
# CC, CXX: the first compilers (gcc, g++); JOBS: programs at a time (2).
# shellcheck disable=SC2046,SC2086 # lists of flags are split on purpose
set -u

CDPATH='' cd -- "$(dirname -- "$0")/.." || exit 1
root=$(pwd)
case "${1-full}" in
full | quick) mode=${1-full} ;;
*)
    echo "usage: sh tests/run.sh [quick]" >&2
    exit 2
    ;;
esac

tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$tmp/tree" "$tmp/results" "$tmp/claims" "$tmp/objects"
ln -s "$root/tests" "$tmp/tree/tests"
ln -s "$root/latticequant.h" "$tmp/tree/latticequant.h"

have() {
    command -v "$1" >/dev/null 2>&1
}

first_of() {
    for tool in "$@"; do
        if have "$tool"; then
            echo "$tool"
            return
        fi
    done
}

gcc=$(first_of "${CC-gcc}" gcc cc)
clang=$(first_of clang)
gxx=$(first_of "${CXX-g++}" g++)
clangxx=$(first_of clang++)
fast=${clang:-$gcc} # compiles the header faster
if [ -z "$gcc" ]; then
    echo "no C compiler" >&2
    echo "0 passed, 1 failed"
    exit 1
fi

both='-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Wcast-qual
-Wcast-align -Wvla -Wdouble-promotion -Werror'
gate_c="-std=c99 $both -Wstrict-prototypes -Wmissing-prototypes"
gate_cxx="-std=c++11 $both"
frame='-O2 -Wframe-larger-than=4096'
# pointer-overflow would more than double the time of compiling the kernels
sanitize='-O1 -g1 -fsanitize=address,undefined -fno-sanitize=pointer-overflow'
sanitize="$sanitize -fno-sanitize-recover=all"
lean=-DLQ_STATIC # what a test does not use is not compiled; tests/build has the other linkage

# ---- results: a job writes lines "passed failed" to results/JOB ----
count() {
    echo "$1 $2" >>"$tmp/results/$job"
}

ok() {
    count 1 0
}

bad() {
    echo "FAILED: $1"
    count 0 1
}

skip() {
    echo "skipped: $1"
}

# build LABEL COMMAND...: counted; silent unless it fails.
build() {
    label=$1
    shift
    if "$@" >"$tmp/build.$job" 2>&1; then
        ok
        return 0
    fi
    head -40 "$tmp/build.$job"
    bad "$label: $*"
    return 1
}

# program LABEL COMMAND...: its line "N passed, N failed" is added up, or it counts as one.
program() {
    label=$1
    shift
    "$@" >"$tmp/out.$job" 2>"$tmp/err.$job"
    status=$?
    sums=$(sed -n 's/^/ /; s/^.*[^0-9]\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' \
        "$tmp/out.$job" | tail -1)
    if [ "$status" -ne 0 ]; then
        tail -15 "$tmp/out.$job"
        head -40 "$tmp/err.$job"
    fi
    if [ -z "$sums" ]; then
        if [ "$status" -eq 0 ]; then ok; else bad "$label: exit status $status"; fi
        return
    fi
    count "${sums% *}" "${sums#* }"
    echo "$label: ${sums% *} passed, ${sums#* } failed"
    if [ "$status" -ne 0 ] && [ "${sums#* }" = 0 ]; then
        bad "$label: exit status $status"
    fi
}

# ---- jobs ----

# What a test is given: `size` is full, short, or tiny for slow machines (valgrind, qemu).
arguments_of() {
    case "$1.$2" in
    test_hostile.long) echo 600000 ;;
    test_hostile.full) echo 20000 ;;
    test_hostile.short) echo 3000 ;;
    test_hostile.tiny) echo 100 ;;
    test_archive.full) echo 50000 ;;
    test_archive.short) echo 2000 ;;
    test_archive.tiny) echo 50 ;;
    test_calibrate.* | test_eigen.* | test_product.*) echo "$2" ;;
    *.long | *.full) ;;
    *) echo quick ;;
    esac
}

# The implementation, once for all tests that include header.h.
job_object() { # NAME COMPILER FLAGS...
    object=$tmp/objects/$(echo "$1" | tr / _)
    name=$1
    shift
    build "object $name" "$@" -c tests/build/header.c -o "$object.part" &&
        mv "$object.part" "$object.o"
    touch "$object.done"
}

# That object's file, when the job that makes it, which is before this one, has ended; nothing if
# there is none then.
object_of() { # NAME
    object=$tmp/objects/$(echo "$1" | tr / _)
    until [ -e "$object.done" ]; do
        sleep 1
    done
    [ ! -e "$object.o" ] || echo "$object.o"
}

# What a test is built with: the object, where the test includes header.h.
sources() { # TEST NAME
    object=
    if grep -q '^#include ".*header.h"' "tests/$1.c"; then
        object=$(object_of "$2")
    fi
    if [ -n "$object" ]; then
        echo "-DLQ_LINKED tests/$1.c $object"
    else
        echo "$lean tests/$1.c"
    fi
}

job_test() { # TEST COMPILER SIZE [FLAGS]
    build "$1 $2" $2 $gate_c ${4-$for_tests} $(sources "$1" "$2") -o "$tmp/$1.$job" -lm -lpthread &&
        program "$1 ($2)" "$tmp/$1.$job" $(arguments_of "$1" "$3")
}

# The frames of a build at another level of optimisation, and what they sum up to.
job_stack() { # COMPILER LEVEL
    build "stack $1 $2" $1 -std=c99 $2 -Wframe-larger-than=4096 -Werror -DLQ_LINKED \
        tests/build/header.c tests/test_stack.c -o "$tmp/stack.$job" -lm -lpthread &&
        program "test_stack ($1 $2)" "$tmp/stack.$job"
}

job_sanitized() { # TEST COMPILER SIZE
    build "$1 sanitized" $2 $gate_c $sanitize $(sources "$1" sanitized) -o "$tmp/$1.$job" -lm \
        -lpthread && program "$1 ($2, sanitizers)" "$tmp/$1.$job" $(arguments_of "$1" "$3")
}

job_threads() { # COMPILER
    build "test_threads for threads" $1 $gate_c $lean -O1 -g1 -fsanitize=thread \
        tests/test_threads.c -o "$tmp/threads.$job" -lm -lpthread &&
        program "test_threads (thread sanitizer)" env TSAN_OPTIONS=halt_on_error=1 \
            "$tmp/threads.$job"
}

job_valgrind() { # TEST
    build "$1 for valgrind" $gcc -std=c99 -O1 -g $(sources "$1" "$gcc") -o "$tmp/$1.$job" -lm &&
        program "$1 (valgrind)" valgrind -q --error-exitcode=9 --leak-check=full \
            "$tmp/$1.$job" $(arguments_of "$1" tiny)
}

job_compile() { # COMPILER FILE
    case "$2" in
    *.cpp) build "$2 $1" $1 $gate_cxx $lean -O1 -fsyntax-only -I. -c "$2" ;;
    *) build "$2 $1" $1 $gate_c $lean -O1 -fsyntax-only -I. -c "$2" ;;
    esac
}

job_header() { # COMPILER STANDARD LANGUAGE
    warnings=$both
    [ "$3" = c ] && warnings="$both -Wstrict-prototypes -Wmissing-prototypes"
    build "header $1 $2" $1 -std=$2 $warnings -O1 -fsyntax-only -x $3 -c tests/build/c99.c
}

# One of tests/build: compiled and linked by COMPILER with FLAGS..., and run.
job_link() { # COMPILER FLAGS -- FILES
    compiler=$1
    shift
    flags=
    while [ "$1" != -- ]; do
        flags="$flags $1"
        shift
    done
    shift
    build "$* $compiler$flags" $compiler $flags "$@" -o "$tmp/link.$job" &&
        program "$*" "$tmp/link.$job"
}

# tests/build/FILE.c with the object of its compiler, and run.
job_linked() { # COMPILER FILE
    build "$2 $1" $1 -std=c99 -O1 $(sources "build/$2" "$1") -o "$tmp/link.$job" &&
        program "$2" "$tmp/link.$job"
}

job_symbols() { # COMPILER
    object=$(object_of "$1")
    [ -n "$object" ] || {
        bad "symbols of the header by $1: no object"
        return
    }
    if nm -P "$object" | awk '
        $2 ~ /^[A-TV-Z]$/ && $1 !~ /^lq_[a-z]/ {
            print "exported: " $1; bad = 1
        }
        $2 == "U" && $1 !~ /^(memcpy|memmove|memset|_GLOBAL_OFFSET_TABLE_)$/ {
            print "imported: " $1; bad = 1
        }
        END { exit bad }'; then
        ok
    else
        bad "symbols of the header by $1"
    fi
    if objdump -t "$object" | awk '
        / O / && /[ \t]\.t?(data|bss)/ && !/\.data\.rel\.ro/ && !/lq__cpu_state/ {
            print; bad = 1
        }
        END { exit bad }'; then
        ok
    else
        bad "writable state of the header by $1"
    fi
}

# What a call of the library adds to an empty program, text and data: of a static header, or of the
# compiler's object, whose functions lie in sections of their own.
job_used() { # COMPILER CALL MOST static|sections
    compiler=$1
    call=$2
    most=$3
    how="-DLQ_STATIC tests/build/used.c"
    if [ "$4" = sections ]; then
        how="-DLQ_LINKED tests/build/used.c $(object_of "$compiler") -Wl,--gc-sections"
    fi
    for which in 0 "$call"; do
        build "used $call $compiler" $compiler -std=c99 -O2 -DUSED="$which" $how \
            -o "$tmp/used$which.$job" || return
    done
    program "used $call" "$tmp/used$call.$job"
    bytes=$(size "$tmp/used0.$job" "$tmp/used$call.$job" |
        awk 'NR == 2 { none = $1 + $2 } NR == 3 { print $1 + $2 - none }')
    if [ "$bytes" -le $((most * 1024)) ]; then
        ok
    else
        bad "call $call by $compiler $4: $bytes bytes, more than $most KB"
    fi
}

# Macros that the header leaves behind: LQ_* and LATTICEQUANT_* and nothing internal.
job_macros() { # COMPILER
    at=$tmp/macros.$job
    {
        sed -n 's/^ *# *include *\(<[a-z0-9_]*\.h>\).*/#include \1/p' latticequant.h | sort -u |
            grep -v -E '<(avx|[pst]mm|popcnt|bmi|f16c|fma).*intrin' | # for MSVC's targets only
            awk '
                /immintrin|cpuid/ { print "#ifdef __x86_64__" }
                /arm_neon/ { print "#ifdef __aarch64__" }
                { print }
                /immintrin|cpuid|arm_neon/ { print "#endif" }'
    } >"$at.std.c"
    echo '#include "latticequant.h"' >"$at.api.c"
    {
        echo '#define LATTICEQUANT_IMPLEMENTATION'
        echo '#include "latticequant.h"'
    } >"$at.imp.c"
    for part in std api imp; do
        $1 -std=c99 -I. -dM -E "$at.$part.c" 2>"$at.err" | awk '{ print $2 }' |
            sed 's/(.*//' | sort -u >"$at.$part"
    done
    for part in api imp; do
        leak=$(comm -13 "$at.std" "$at.$part" |
            grep -v -E '^(LQ_[A-Z0-9][A-Z0-9_]*|LATTICEQUANT_[A-Z_]+)$' | tr '\n' ' ')
        if [ -z "$leak" ]; then ok; else bad "macros left by $1 ($part): $leak"; fi
    done
}

# One digest of everything the encoder makes, compared with the pinned one at every SIMD level.
job_digest() { # LABEL RUNNER COMMAND...
    name=$1
    runner=$2
    shift 2
    [ "$runner" = - ] && runner=
    build "digest $name" "$@" $lean tests/digest.c -o "$tmp/digest.$job" -lm || return
    want=$(cat tests/golden/digest.txt)
    for level in 0 1 2; do
        got=$($runner "$tmp/digest.$job" $level) || got="exit status $?"
        if [ "$got" = "$want" ]; then
            ok
        else
            bad "digest $name level $level: $got, not $want"
        fi
    done
}

# For another machine, or another kind of this one (RUNNER -); its object has the name LABEL.
job_machine() { # LABEL RUNNER TEST COMPILER...
    name=$1
    runner=$2
    t=$3
    shift 3
    [ "$runner" = - ] && runner=
    build "$t for $name" "$@" $(sources "$t" "$name") -o "$tmp/$t.$job" -lm -lpthread &&
        program "$t ($name)" $runner "$tmp/$t.$job" $(arguments_of "$t" tiny)
}

# Where floats are evaluated wider the header says so, and what helps.
job_wide_floats() { # COMPILER...
    if "$@" -std=c99 -fsyntax-only tests/build/c99.c >"$tmp/wide.$job" 2>&1; then
        bad "$*: compiles although floats are evaluated wider"
    elif grep -q '#error "floats must round to float: add ' "$tmp/wide.$job"; then
        ok
    else
        head -20 "$tmp/wide.$job"
        bad "$*: no word on floats"
    fi
}

# SIMD for the target of MSVC, with stand-ins for the headers of C.
job_windows() { # CLANG CLANGXX
    mkdir "$tmp/include.$job"
    echo '#include <stddef.h>
void *memcpy(void *, const void *, size_t);
void *memmove(void *, const void *, size_t);
void *memset(void *, int, size_t);' >"$tmp/include.$job/string.h"
    echo '#include <stddef.h>
void *malloc(size_t);
void free(void *);' >"$tmp/include.$job/stdlib.h"
    echo '#include <stddef.h>
void *_aligned_malloc(size_t, size_t);
void _aligned_free(void *);' >"$tmp/include.$job/malloc.h"
    target="--target=x86_64-pc-windows-msvc -I $tmp/include.$job"
    build "header $1 for windows" $1 $target $gate_c -O1 -fsyntax-only tests/build/c99.c
    if [ -n "$2" ]; then
        build "header $2 for windows" $2 $target $gate_cxx -O1 -fsyntax-only -x c++ \
            tests/build/c99.c
    fi
}

# The house: latticequant.h split at its tags, a file for each room. A tag of the contents is a room
# and the other way round, in the same order, and so is a tag that a comment names. A room has 2,500
# lines at most and calls none below it, a function 60, a line 100 columns. Of torn comments these
# are found: an end on a line of its own, text beyond column 45, a sentence that goes on in the next
# line although its next word ends before column 80. Functions in the lists are exempt.
functions_longer='lq__e8_rows_avx2 lq__e8_rows_avx512' # kernels
called_before='lq__cpu_level lq__rows_of_level lq__points_of_level lq__leech_of_level
lq__trellis_of_level lq__hot_of_level lq__kv_verbs_of' # tables: declared with their types, defined behind the last row
job_house() {
    at=$tmp/house.$job
    mkdir "$at"
    awk -v to="$at" '
        /^   >>[a-z]+( |$)/ { split($1, tag, ">>"); file = sprintf("%s/%02d-%s", to, ++n, tag[2]) }
        NR > 1 { print held > (n == 0 ? to "/01-readme" : file) }
        { held = $0 }
        END { print held > file }' latticequant.h
    if awk -v functions_longer="$functions_longer" -v called_before="$called_before" '
        function fault(what) {
            print "latticequant.h:" NR ": " what
            faults++
        }
        function list(names, set,    i, n, part) {
            n = split(names, part, /[ \n]+/)
            for (i = 1; i <= n; i++) set[part[i]] = 1
        }
        # the line without comments and strings; in_comment goes on to the next line
        function code_of(line,    code, i) {
            code = ""
            while (line != "") {
                if (in_comment) {
                    i = index(line, "*/")
                    if (!i) return code
                    line = substr(line, i + 2)
                    in_comment = 0
                } else if (match(line, /\/\*|"(\\.|[^"\\])*"|'\''(\\.|[^'\''\\])*'\''/)) {
                    code = code substr(line, 1, RSTART - 1) " "
                    in_comment = substr(line, RSTART, 2) == "/*"
                    line = substr(line, RSTART + (in_comment ? 2 : RLENGTH))
                } else {
                    code = code line
                    line = ""
                }
            }
            return code
        }
        BEGIN {
            list(functions_longer, long_function)
            list(called_before, early)
        }
        FNR == 1 {
            room = FILENAME
            sub(/.*\/[0-9]*-/, "", room)
            name[++rooms] = room
        }
        { lines[rooms]++ }
        length($0) > 100 { fault("more than 100 columns") }
        /^     >>[a-z]/ && room == "manual" { # of the contents
            for (i = 1; i <= NF && $i ~ /^>>/; i++) contents = contents " " $i
        }
        /^   >>[a-z]+( |$)/ {
            for (i = 1; i <= NF; i++) if ($i ~ /^>>[a-z]+$/ && (i == 1 || room == "config")) {
                headings = headings " " $i
                tag[$i] = 1
            }
        }
        {
            was_comment = in_comment
            code = code_of($0)
            if (was_comment || code != $0) {
                text = $0 # tags that are spoken of
                while (match(text, />>[a-z]+/)) {
                    if (!(substr(text, RSTART, RLENGTH) in spoken))
                        spoken[substr(text, RSTART, RLENGTH)] = NR
                    text = substr(text, RSTART + RLENGTH)
                }
            }
            if (was_comment && $0 ~ /^ *\*\/$/ && last !~ /^ *\047-/)
                fault("torn: the comment ends on a line of its own")
            match($0, /^ */)
            indent = RLENGTH
            if (was_comment && indent > 44 && !deep)
                fault("torn: text of a comment begins in column " indent + 1)
            if (was_comment && was_text && code ~ /^ *$/ && last ~ /[a-z,]$/ && $1 ~ /^[a-z]/ &&
                $2 != "=" && last !~ /[^ ]  +[^ ]/ && $0 !~ /[^ ]  +[^ ]/ && last !~ /^ *\|/ &&
                (match(last, /^(\/\* | *)/) && RLENGTH == indent || last ~ /^[^ \/]/) &&
                length(last) + 1 + length($1) < 80)
                fault("torn: " $1 " has room in the line before")
            was_text = code ~ /^ *$/ && (was_comment || in_comment)
            if (!was_comment && in_comment) deep = index($0, "/*") > 40
        }
        # functions: from the first line of the declaration to the brace that ends it
        !was_comment && !begun && code ~ /^[A-Za-z_]/ && code !~ /^(typedef|struct|enum|union)/ {
            begun = NR
            head = ""
        }
        begun { # up to its body
            head = head code
            if (code ~ /^\{/) {
                body = begun
                begun = 0
                self = match(head, /lq_[a-z0-9_]+ *\(/) ? substr(head, RSTART, RLENGTH) : ""
                sub(/ *\(/, "", self)
                if (self != "" && !(self in defined)) defined[self] = rooms
            } else if (code ~ /[;=}\\] *$/ || code ~ /^#/) {
                begun = 0
            }
        }
        body && code ~ /^\}/ {
            if (NR - body + 1 > 60 && !(self in long_function))
                fault(self ": " NR - body + 1 " lines, more than 60")
            if (NR - body + 1 <= 60 && self in long_function)
                fault(self ": is listed and has no more than 60 lines")
            body = 0
        }
        {
            while (room != "api" && room != "kv" && match(code, /lq_[a-z0-9_]+/)) {
                use = substr(code, RSTART, RLENGTH)
                if (!((use, rooms) in used)) {
                    used[use, rooms] = NR
                    uses[++n_uses] = use
                    use_room[n_uses] = rooms
                }
                code = substr(code, RSTART + RLENGTH)
            }
            last = $0
        }
        END {
            if (contents != headings) fault("the contents are" contents ", the rooms" headings)
            for (s in spoken) if (!(s in tag)) {
                NR = spoken[s]
                fault(s " is no room")
            }
            for (i = 1; i <= n_uses; i++) {
                use = uses[i]
                if (use in defined && defined[use] > use_room[i]) {
                    called[use] = 1
                    if (use in early) continue
                    NR = used[use, use_room[i]]
                    fault(name[use_room[i]] " calls " use " of " name[defined[use]] ", a room below")
                }
            }
            for (use in early) if (!(use in called)) fault(use ": is listed and not called before")
            for (i = 1; i <= rooms; i++) {
                if (lines[i] > 2500) fault(name[i] ": " lines[i] " lines, more than 2500")
                row = row sprintf(" %12s %5d", name[i], lines[i])
                if (i % 5 == 0 || i == rooms) {
                    print "rooms:" row
                    row = ""
                }
            }
            exit faults != 0
        }' "$at"/*; then
        ok
    else
        bad "the rooms of latticequant.h"
    fi
}

# An example by the command in its first line; then its script tests/test_NAME.sh with
# the binary and the compiler.
job_example() { # FILE COMPILER
    name=$(basename "$1" .c)
    command=$(sed -n '1s|^/\* *\(cc .*[^ ]\) *\*/.*$|\1|p' "$1")
    if [ -z "$command" ]; then
        bad "$1: the first line is not its cc command"
        return
    fi
    if [ "$name" = lm ] && [ ! -f tests/test_lm.sh ]; then
        skip "examples/lm/lm.c (no tests/test_lm.sh)"
        return
    fi
    mkdir -p "$tmp/bin.$job"
    command=$(echo "$command" | sed "s|^cc |$2 |; s|-o  *|-o $tmp/bin.$job/|")
    command=$(echo "$command" | sed 's| -O2 | -O1 |') # compiles in half the time
    build "$1" sh -c "$command" || return
    if [ "$mode.$2" = "full.$gcc" ] && [ -f "tests/test_$name.sh" ]; then
        program "test_$name.sh ($2)" sh "tests/test_$name.sh" "$tmp/bin.$job/$name" "$2"
    fi
    if [ "$name" != lm ]; then
        mkdir -p "$tmp/tree/$job"
        ln -s "$root/tests" "$tmp/tree/$job/tests"
        program "$1" sh -c "cd '$tmp/tree/$job' && '$tmp/bin.$job/$name'"
    fi
}

# The ```c blocks of the README that are programs.
job_readme() {
    awk -v to="$tmp/tree/readme" '
        /^```c$/ { n++; on = 1; next }
        /^```/ { on = 0 }
        on { print > (to n ".c") }' README.md
    for file in "$tmp"/tree/readme*.c; do
        if [ -f "$file" ] && grep -q 'int main' "$file"; then
            build "README $(basename "$file")" $fast -std=c99 $optimise $lean -Wall -Wextra -Werror -I. "$file" \
                -o "${file%.c}" -lm -lpthread &&
                program "README $(basename "$file")" sh -c "cd '$tmp/tree' && '${file%.c}'"
        fi
    done
}

# Golden files by decoders that share no line with the library.
job_decode() {
    program decode.py python3 tests/decode.py
    program decode_llvq.py python3 tests/decode_llvq.py
    program decode_rows.py python3 tests/decode_rows.py
}

# latticequant_cuda.cuh: code for each generation, and what of its test needs no device (all of it,
# where there is one; newer ones take the code for 8.0).
job_cuda() {
    for arch in 80 90 100; do
        build "tests/test_cuda.cu for sm_$arch" nvcc -O1 -DFEW -DLQ_LINKED -arch=sm_$arch \
            -Werror all-warnings -Xcompiler -Wall,-Wextra -c tests/test_cuda.cu \
            -o "$tmp/cuda$arch.$job.o"
    done
    build "tests/test_cuda.cu" nvcc "$tmp/cuda80.$job.o" "$(object_of "${compilers%% *}")" \
        -o "$tmp/cuda.$job" && program "test_cuda" "$tmp/cuda.$job" $(arguments_of test_cuda short)
}

job_shellcheck() {
    for file in tests/*.sh .ci/run; do
        build "shellcheck $file" shellcheck "$file"
    done
}

# ---- the list of jobs, dear ones first ----
compilers="$gcc $clang"
optimise=-O2
for_tests=-O2 # frames are checked in job_object
if [ "$mode" = quick ]; then
    compilers=$fast
    optimise=-O1
    for_tests=-O1
fi

add() {
    echo "$*" >>"$tmp/jobs"
}

tests=
waiting= # for the object
for file in tests/test_*.c; do
    if [ "$file" = tests/test_lm.c ]; then
        continue # test_lm.sh's
    elif grep -q '^#include "header.h"' "$file"; then
        waiting="$waiting $(basename "$file" .c)"
    else
        tests="$tests $(basename "$file" .c)"
    fi
done
tests="$tests $waiting"

sections='-ffunction-sections -fdata-sections'
warned=$frame
[ "$mode" = full ] || warned=-O1
add job_house
for c in $compilers; do
    add job_object "$c" "$c" $gate_c $warned -fno-stack-protector $sections
done
if [ "$mode" = full ]; then
    san=$gcc
    echo 'int main(void) { return 0; }' >"$tmp/probe.c"
    if [ -n "$clang" ] && $clang $sanitize "$tmp/probe.c" -o "$tmp/probe" 2>/dev/null; then
        san=$clang
    fi
    if $san $sanitize "$tmp/probe.c" -o "$tmp/probe" 2>/dev/null; then
        add job_object sanitized "$san" $gate_c $sanitize
        for t in $tests; do
            case $t in
            test_hostile) add job_sanitized "$t" "$san" long ;;
            test_session | test_threads | test_stack) ;; # lq_kv is sanitized in test_kv and test_warm
            *) add job_sanitized "$t" "$san" short ;;
            esac
        done
    else
        skip "sanitizers (not installed)"
    fi
    tsan=
    for c in $clang $gcc; do
        if [ -z "$tsan" ] && $c -fsanitize=thread "$tmp/probe.c" -o "$tmp/probe" -lpthread \
            2>/dev/null && "$tmp/probe"; then
            tsan=$c
        fi
    done
    if [ -n "$tsan" ]; then
        add job_threads "$tsan"
    else
        skip "thread sanitizer (not installed)"
    fi
    for t in $tests; do
        case $t in
        test_rans) add job_test "$t" "$gcc" short ;; # full: half a minute
        *) add job_test "$t" "$gcc" full ;;
        esac
    done
    if have valgrind; then
        for t in test_golden test_profile test_hostile; do
            [ -f "tests/$t.c" ] && add job_valgrind "$t"
        done
    else
        skip "valgrind (not installed)"
    fi
    if [ -n "$clang" ]; then
        for t in $tests; do
            case "$san.$t" in # some that clang has sanitized are not run again
            "$clang.test_kv" | "$clang.test_warm" | "$clang.test_pack" | "$clang.test_export") ;;
            "$clang.test_array" | "$clang.test_page" | "$clang.test_joint" | "$clang.test_bias") ;;
            *) add job_test "$t" "$clang" short -O1 ;;
            esac
        done
    else
        skip "clang (not installed)"
    fi
else
    for t in $tests; do
        case $t in
        test_session | test_warm | test_calibrate | test_bias) skip "$t (quick)" ;;
        *) add job_test "$t" "$fast" short ;;
        esac
    done
fi

for c in $compilers; do
    for file in examples/*.c examples/lm/lm.c; do
        if [ "$mode" = quick ] && [ "$file" != examples/pack_kv.c ]; then
            skip "$file (quick)"
        elif [ "$mode" = quick ] || [ "$c" = "$gcc" ]; then
            add job_example "$file" "$c"
        else
            add job_compile "$c" "$file"
        fi
    done
    for file in bench/*.c; do
        [ -f "$file" ] || continue
        if grep -q '<htscodecs/' "$file" && ! echo '#include <htscodecs/rANS_static4x16.h>' |
            "$c" -x c -E - >/dev/null 2>&1; then
            skip "$file ($c: no htscodecs headers)"
            continue
        fi
        [ "$mode" = quick ] || add job_compile "$c" "$file"
    done
    for file in tests/*.c; do
        case "$file" in
        tests/test_lm.c) ;; # which only test_lm.sh runs
        tests/test_*) continue ;;
        esac
        [ "$mode" = quick ] || add job_compile "$c" "$file"
    done
    add job_symbols "$c"
    add job_macros "$c"
    [ "$mode" = quick ] || add job_linked "$c" c99
    # without SIMD, which job_object compiles
    add job_link "$c" -std=c99 -DLQ_NO_SIMD -O0 -- tests/build/two_tu_a.c tests/build/two_tu_b.c
    for file in static nosimd twice; do
        low=-O0
        [ "$file" = static ] && low=-O1 # where what is not used is left out early
        [ "$mode.$file" = quick.nosimd ] || [ "$mode.$c" = "full.$fast" ] &&
            add job_link "$c" -std=c99 -Wall -Wextra -Werror "$low" -- "tests/build/$file.c"
    done
    if [ "$(uname -s)" = Linux ] && have size; then
        lattice=36 # KB; half of it is the Leech lattice
        coder=72
        linked=78
        # with vector constants of all kernels
        [ "$c" = "$clang" ] && lattice=56 coder=97 linked=106
        add job_used "$c" 1 32 static
        add job_used "$c" 2 $coder static
        [ "$mode" = quick ] || add job_used "$c" 1 $lattice sections
        [ "$mode" = quick ] || add job_used "$c" 2 $linked sections
    fi
    case "$(uname -s).$(uname -m)" in
    Linux.x86_64 | Linux.aarch64)
        add job_link "$c" -std=c99 "$optimise" $lean -nostdlib -static -ffreestanding \
            -fno-builtin -fno-stack-protector -- tests/build/nostdlib.c
        ;;
    *) skip "tests/build/nostdlib.c (only Linux on x86-64 and aarch64)" ;;
    esac
done
for c in $gxx $clangxx; do
    if [ "$mode" = full ] || [ "$c" = "${clangxx:-$gxx}" ]; then
        add job_link "$c" -std=c++11 -DLQ_NO_SIMD -Wall -Wextra -Werror -O0 -- tests/build/cxx.cpp
        [ "$mode" = quick ] || add job_header "$c" c++11 c++
    fi
done
if [ "$mode" = full ]; then
    for c in $compilers; do
        add job_header "$c" gnu17 c
    done
fi

if [ ! -f tests/digest.c ]; then
    skip "tests/digest.c (not there)"
elif [ "$mode" = full ]; then # what is digested is in test_golden too
    add job_stack "$gcc" -O0
    add job_stack "$gcc" -Og
    add job_stack "$gcc" -Os
    [ -n "$clang" ] && add job_stack "$clang" -O0
    add job_digest "$gcc-O0" - "$gcc" -std=c99 -O0
    add job_digest "$gcc-O3-native-ffast-math" - "$gcc" -std=gnu99 -O3 -march=native -ffast-math
    if [ -n "$clang" ]; then
        add job_digest clang-O3-ffast-math - "$clang" -std=c99 -O3 -ffast-math
        add job_digest clang-O2-native - "$clang" -std=gnu99 -O2 -march=native -ffp-contract=fast
    fi
    add job_digest "$fast-LQ_NO_SIMD" - "$fast" -std=c99 -O2 -DLQ_NO_SIMD
    for c in $gxx $clangxx; do
        add job_digest "$c" - "$c" -std=c++11 -O1 -x c++
    done
    echo 'int main(void) { return 0; }' >"$tmp/probe.c"
    # the kernel's headers lie apart where cross compilers are installed
    m32="-m32 -idirafter /usr/include/$(uname -m)-linux-gnu"
    if $gcc $m32 "$tmp/probe.c" -o "$tmp/probe" 2>/dev/null && "$tmp/probe"; then
        add job_object "$gcc-m32" "$gcc" $gate_c -O1 $m32 -msse2 -mfpmath=sse
        for t in test_golden test_transform test_profile test_archive test_page test_kv \
            test_array test_joint test_bits; do
            add job_machine "$gcc-m32" - "$t" "$gcc" $gate_c -O1 $m32 -msse2 -mfpmath=sse
        done
        add job_wide_floats "$gcc" $m32
    else
        skip "-m32 (does not link)"
    fi
    if have aarch64-linux-gnu-gcc && have qemu-aarch64 &&
        aarch64-linux-gnu-gcc -static "$tmp/probe.c" -o "$tmp/probe" 2>/dev/null; then
        add job_object aarch64 aarch64-linux-gnu-gcc -std=c99 -O2
        add job_digest aarch64 qemu-aarch64 aarch64-linux-gnu-gcc -static -std=c99 -O2
        for t in test_hot test_rans test_rows test_warm_kernels test_product test_transform \
            test_lattice test_leech test_trellis test_polar test_golden test_bits; do
            [ -f "tests/$t.c" ] && add job_machine aarch64 qemu-aarch64 "$t" \
                aarch64-linux-gnu-gcc -static -std=c99 -O2
        done
    else
        skip "aarch64 (no cross compiler or qemu)"
    fi
    # big-endian; with -std=c99 alone gcc has floats as doubles there
    if have s390x-linux-gnu-gcc && have qemu-s390x &&
        s390x-linux-gnu-gcc -static "$tmp/probe.c" -o "$tmp/probe" 2>/dev/null; then
        s390x="s390x-linux-gnu-gcc -static -std=c99 -fexcess-precision=fast -O2"
        add job_object s390x $s390x -Wall -Wextra -Werror
        for t in test_golden test_transform test_profile test_archive test_array test_joint test_llvq \
            test_polar test_codebook test_kakeya test_bits; do
            add job_machine s390x qemu-s390x "$t" $s390x -Wall -Wextra -Werror
        done
        add job_wide_floats s390x-linux-gnu-gcc
    else
        skip "s390x (no cross compiler or qemu)"
    fi
    if [ -n "$clang" ] && [ "$(uname -m)" = x86_64 ]; then
        add job_windows "$clang" "$clangxx"
    else
        skip "windows (no clang on x86-64)"
    fi
fi
if [ -f README.md ]; then
    add job_readme
else
    skip "README.md (not there)"
fi
if have python3; then
    add job_decode
else
    skip "tests/decode.py (no python3)"
fi
if [ "$mode" = quick ]; then
    skip "CUDA (quick)"
elif have nvcc; then
    add job_cuda
else
    skip "CUDA (no nvcc)"
fi
if have shellcheck; then
    add job_shellcheck
else
    skip "shellcheck (not installed)"
fi

# ---- the workers take the jobs in order ----
worker() {
    job=0
    while read -r line; do
        job=$((job + 1))
        mkdir "$tmp/claims/$job" 2>/dev/null || continue
            $line >"$tmp/log.$job" 2>&1 </dev/null
        if [ ! -s "$tmp/results/$job" ]; then
            case "$line" in
            job_example* | job_readme*) ;;
            *) bad "$line: nothing counted" >>"$tmp/log.$job" ;;
            esac
        fi
        cat "$tmp/log.$job"
        rm -rf "$tmp"/*".$job"
    done <"$tmp/jobs"
}

started=$(date +%s)
workers=
n=0
while [ "$n" -lt "${JOBS-2}" ]; do
    worker &
    workers="$workers $!"
    n=$((n + 1))
done
trap 'kill $workers 2>/dev/null; exit 1' HUP INT TERM
for pid in $workers; do
    wait "$pid"
done
echo "$(($(date +%s) - started)) seconds"
cat "$tmp/results"/* | awk '
    { passed += $1; failed += $2 }
    END { printf "%d passed, %d failed\n", passed, failed; exit failed != 0 || passed == 0 }'
