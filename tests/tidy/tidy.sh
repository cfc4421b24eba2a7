#!/bin/sh
# tests/tidy/tidy.sh [root]: checks on the source itself; see README.md. Exit 0: no finding, 1: findings.
set -u
LC_ALL=C
export LC_ALL
cd "${1:-$(dirname "$0")/../..}" || exit 2
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT

if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files --cached --others --exclude-standard >"$work/listed"
else
    find . -path ./build -prune -o -name node_modules -prune -o -type f -print |
        sed 's,^\./,,' >"$work/listed"
fi
# A file that is listed but was just removed is no finding.
grep -Ev '(^|/)node_modules/|^build/' "$work/listed" | sort -u | while read -r file; do
    [ -f "$file" ] && printf '%s\n' "$file"
done >"$work/all"
grep -E '\.(c|h)$' "$work/all" >"$work/sources"
grep -E '\.(c|h|def|sh|cmake|py|mjs|js)$|CMakeLists\.txt$' "$work/all" |
    grep -v '^tests/tidy/' >"$work/code"
[ -s "$work/sources" ] || { echo "tidy: no sources found in $(pwd)" >&2; exit 2; }

# ---- form: length, tabs, blanks, marks of unfinished work, head of the file ----
xargs -d '\n' -a "$work/code" awk '
    function finding(what) { printf "%s:%d: %s\n", FILENAME, FNR, what }
    function columns(s) { gsub(/[\200-\277]/, "", s); return length(s) }
    function end_of_file() {
        if (name != "" && lines > 1200)
            printf "%s:%d: file of %d lines, at most 1200\n", name, lines, lines
        if (name ~ /\.h$/ && !pragma)
            printf "%s:1: header without #pragma once\n", name
    }
    FNR == 1 {
        end_of_file()
        name = FILENAME
        pragma = 0
        source = name ~ /\.[ch]$/
        if (source && index($0, "/* " name " ") != 1)
            finding("first line does not start with \"/* " name "\" and say what it is")
    }
    { lines = FNR }
    source && /^#pragma once/ { pragma = 1 }
    source && length($0) > 100 && columns($0) > 100 {
        finding("line of " columns($0) " columns, at most 100")
    }
    source && /\t/ { finding("tab") }
    source && /[ \t]+$/ { finding("blanks at the end of the line") }
    /(^|[^A-Za-z0-9_])(TODO|FIXME|XXX|HACK)([^A-Za-z0-9_]|$)/ { finding("mark of unfinished work") }
    END { end_of_file() }' >"$work/findings"

# ---- floors: base < bson < proto < runtime < programs; programs never include each other ----
xargs -d '\n' -a "$work/sources" awk '
    function floor_of(path) {
        if (path ~ /^libcommon\/base\//) return 1
        if (path ~ /^libcommon\/bson\//) return 2
        if (path ~ /^proto\//) return 3
        if (path ~ /^libcommon\/runtime\//) return 4
        if (path ~ /^veddb-[a-z]+\//) return 5
        if (path ~ /^tests\//) return 6
        return 0
    }
    function program_of(path) { sub(/\/.*/, "", path); return path }
    function finding(what) { printf "%s:%d: %s\n", FILENAME, FNR, what }
    /^[ \t]*#[ \t]*include[ \t]*[<"]/ {
        included = $0
        sub(/^[^<"]*[<"]/, "", included)
        sub(/[>"].*/, "", included)
        if (included == "wiredtiger.h" || included == "wiredtiger_ext.h") {
            if (FILENAME !~ /^veddb-storaged\/engine\// && FILENAME !~ /^tests\//)
                finding("only veddb-storaged/engine includes " included)
            next
        }
        if ($0 !~ /"/) next
        if (included ~ /\.c$/) finding("includes a .c file: " included)
        there = floor_of(included)
        here = floor_of(FILENAME)
        if (there == 0) finding("include is not written from the root: " included)
        if (here == 6) next
        if (there > here) finding("floor: may not use " included)
        if (here == 5 && there == 5 && program_of(FILENAME) != program_of(included))
            finding("programs meet in proto/ only: " included)
    }' >>"$work/findings"

# ---- every folder with .c files has a README.md that names each .c and .h (tests/unit mirrors the tree) ----
grep '\.c$' "$work/sources" | grep -v '^tests/unit/' | sed 's,/[^/]*$,,' | sort -u |
    while read -r folder; do
        if [ ! -f "$folder/README.md" ]; then
            echo "$folder:1: folder without README.md"
            continue
        fi
        sed -n "s,^$folder/\([^/]*\)\.[ch]\$,\1,p" "$work/sources" | sort -u | while read -r stem; do
            grep -qwF -- "$stem" "$folder/README.md" ||
                echo "$folder/README.md:1: does not name $stem"
        done
    done >>"$work/findings"

# ---- what a README names as `file.c` or `file.h` is there ----
grep -E '(^|/)README\.md$' "$work/all" | while read -r readme; do
    folder=$(dirname "$readme")
    grep -oE '`[A-Za-z0-9_/.-]+\.[ch]`' "$readme" | tr -d '`' | sort -u | while read -r file; do
        [ -f "$folder/$file" ] || [ -f "$file" ] || echo "$readme:1: names $file, which is not there"
    done
done >>"$work/findings"

# ---- numbers are used once ----
if [ -f libcommon/base/error_codes.def ]; then
    sed -n 's/^VD_ERROR_CODE([A-Z0-9_]*, *\([0-9]*\),.*/\1/p' libcommon/base/error_codes.def |
        sort | uniq -d | while read -r number; do
            echo "libcommon/base/error_codes.def:1: number $number is used twice"
        done >>"$work/findings"
fi
if [ -f proto/ids.def ]; then
    sed -n 's/^[A-Z_]*([A-Z0-9_]*, *\([0-9]*\).*/\1/p' proto/ids.def | sort | uniq -d |
        while read -r number; do
            echo "proto/ids.def:1: number $number is used twice"
        done >>"$work/findings"
fi

sort -t: -k1,1 -k2,2n "$work/findings" | uniq
count=$(wc -l <"$work/findings")
[ "$count" -eq 0 ] && exit 0
echo "tidy: $count findings" >&2
exit 1
