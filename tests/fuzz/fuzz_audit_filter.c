/* tests/fuzz/fuzz_audit_filter.c — audit.filter as it stands in the configuration (text up to a
 * zero byte), and behind it an event, BSON. Two readings agree; what can't be told is kept. */
#include "tests/fuzz/fuzz.h"
#include "veddb-storaged/audit/audit_private.h"

#define TEXT_MAX 8000 /* as the option has it */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *zero = memchr(data, 0, size);
    size_t len = zero == NULL ? size : (size_t)(zero - data);
    stor_filter_t *filter = NULL, *again = NULL;
    char text[TEXT_MAX + 1];
    if (len > TEXT_MAX)
        return 0;
    memcpy(text, data, len);
    text[len] = '\0';
    vd_arena_t *arena = vd_arena_create();
    vd_error_t err = VD_ERROR_INIT;
    int rc = stor_audit_filter_parse(arena, text, &filter, &err);
    VD_ASSERT(rc == VD_OK || (rc == VD_ERR_CONFIG && err.message[0] != '\0'));
    VD_ASSERT(rc != VD_OK || len > 0 || filter == NULL);
    vd_slice_t rest = zero == NULL ? VD_SLICE_NULL : vd_slice(zero + 1, size - len - 1);
    if (rc == VD_OK && vd_bson_validate(rest, 0, VD_BSON_DEPTH_MAX, NULL) == VD_OK) {
        vd_bson_t event = {rest.data, (uint32_t)rest.len};
        bool by_chance = strstr(text, "$rand") != NULL || strstr(text, "$sampleRate") != NULL ||
                         strchr(text, '\\') != NULL; /* may spell one of them */
        rc = stor_audit_filter_parse(arena, text, &again, NULL);
        VD_ASSERT(rc == VD_OK);
        bool takes = stor_audit_filter_takes(filter, arena, event);
        VD_ASSERT(by_chance || takes == stor_audit_filter_takes(again, arena, event));
    }
    vd_arena_destroy(&arena);
    return 0;
}
