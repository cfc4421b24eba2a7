/* veddb-supervisor/vedctl/show.h — the supervisor's JSON, read field by field, and numbers as a
 * person reads them. What is missing reads as "" and 0. */
#pragma once
#include "libcommon/base/buf.h"

#include <bson/bson.h>

/* NULL, and said on standard error, when it is not JSON. The caller destroys it. */
bson_t *vedctl_parse(const vd_buf_t *json);
const char *vedctl_text(const bson_t *doc, const char *name);
int64_t vedctl_number(const bson_t *doc, const char *name);
double vedctl_real(const bson_t *doc, const char *name);
bool vedctl_flag(const bson_t *doc, const char *name);
/* Static view of a sub-document or array; false when there is none. */
bool vedctl_sub(const bson_t *doc, const char *name, bson_t *ret);
/* The next element of an array of documents; false at its end. */
bool vedctl_next(bson_iter_t *iter, bson_t *ret);
#define VEDCTL_TEXT_SIZE 32
/* "2026-01-31 23:59:58", UTC; "-": never */
const char *vedctl_date(int64_t ms, char buf[VEDCTL_TEXT_SIZE]);
/* "4d 3h", "12m 5s", "340ms" */
const char *vedctl_span(int64_t ms, char buf[VEDCTL_TEXT_SIZE]);
/* "12 B", "3.4 MB" */
const char *vedctl_size(int64_t bytes, char buf[VEDCTL_TEXT_SIZE]);
