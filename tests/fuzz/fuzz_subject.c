/* tests/fuzz/fuzz_subject.c — the subject of a certificate as the name of a user: a DER name, as a
 * certificate authority could have signed it. The same name gives the same text; it is bounded, has
 * no zero byte, and what would begin another attribute is escaped: as many of them as the name has.
 */
#include "tests/fuzz/fuzz.h"
#include "veddb-gatewayd/auth/subject.h"

#include "libcommon/base/assert.h"

#include <string.h>

/* Attributes in the text: separators that are not escaped, and one more. */
static int attributes(vd_slice_t text)
{
    int count = 1;
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] == '\\')
            i++;
        else if (text.data[i] == ',' || text.data[i] == '+')
            count++;
    }
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char first[1024], second[64];
    const unsigned char *at = data;
    vd_slice_t text, again;
    if (size > 65536)
        return 0;
    X509_NAME *name = d2i_X509_NAME(NULL, &at, (long)size);
    if (name == NULL)
        return 0;
    if (gate_subject_print(name, first, sizeof first, &text)) {
        VD_ASSERT(text.len > 0 && text.len <= sizeof first);
        VD_ASSERT(memchr(text.data, 0, text.len) == NULL);
        VD_ASSERT(attributes(text) == X509_NAME_entry_count(name));
        bool fits = gate_subject_print(name, second, sizeof second, &again);
        VD_ASSERT(fits == (text.len <= sizeof second));
        VD_ASSERT(!fits || memcmp(first, second, text.len) == 0);
    }
    X509_NAME_free(name);
    return 0;
}
