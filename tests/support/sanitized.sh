#!/bin/sh
# tests/support/sanitized.sh PROGRAM [ARGUMENT...]: runs a test program that is built with sanitizers. Fails when it fails, and
# when any process of it (Criterion forks one a test, and forgets what they say at their end) reports an error or a leak.
# Allocations made by Criterion itself (a timer for each test with a time-out) and by WiredTiger (which tests of crashes abandon) are not ours.
reports=$(mktemp -d) || exit 2
trap 'rm -rf "$reports"' EXIT
ASAN_OPTIONS="detect_leaks=1:log_path=$reports/report" LSAN_OPTIONS="exitcode=0" \
UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:log_path=$reports/report" "$@"
code=$?
cat "$reports"/* 2>/dev/null | awk '
    function flush() {
        if (leak != "" && !foreign) { printf "%s", leak; bad = 1 }
        leak = ""; foreign = 0; frames = 0
    }
    /ERROR: AddressSanitizer|runtime error:/ { bad = 1; other = 1 }
    /^(Direct|Indirect) leak of/ { flush(); leak = $0 "\n"; next }
    /^$/ { flush() }
    leak != "" {
        leak = leak $0 "\n"
        if ($0 ~ /#[0-9]+ / && $0 !~ /__interceptor_|libsanitizer/ && ++frames == 1) foreign = $0 ~ /libcriterion|libwiredtiger/
    }
    other { print }
    END { flush(); exit bad }' >&2
[ $? -eq 0 ] || code=1
exit $code
