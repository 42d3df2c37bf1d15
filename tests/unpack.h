/* lq_kv_unpack as most tests call it. Include it after latticequant.h. */
#ifndef UNPACK_H
#define UNPACK_H

#include <string.h>

/* lq_kv_unpack of a sequence that needs no profiles. */
static int unpack(lq_kv *kv, const lq_archive_reader *reader, const lq_tables *tables,
                  uint64_t sequence, void *workspace, size_t workspace_bytes)
{
    lq_kv_unpack_desc d;
    memset(&d, 0, sizeof d);
    d.tables = tables;
    d.sequence = sequence;
    return lq_kv_unpack(kv, reader, &d, workspace, workspace_bytes);
}

#endif
