/* An archive in memory, for tests: written, and read through memory or a callback. With check.h and
   source.h in front. */
#ifndef TEST_ARCHIVE_H
#define TEST_ARCHIVE_H

/* id is the test's own: of its rope, say. */
typedef struct archive {
    uint8_t *file;
    uint8_t *directory;
    lq_archive_writer writer;
    lq_archive_reader reader;
    void *reader_mem;
    uint32_t id;
} archive;

static void archive_begin(archive *a, size_t file_bytes, size_t directory_bytes)
{
    memset(a, 0, sizeof *a);
    lq_archive_writer_desc d;
    memset(&d, 0, sizeof d);
    a->file = (uint8_t *)source_alloc(file_bytes);
    a->directory = (uint8_t *)source_alloc(directory_bytes);
    d.mem = a->file;
    d.mem_bytes = file_bytes;
    d.directory = a->directory;
    d.directory_bytes = directory_bytes;
    CHECK(lq_archive_writer_init(&a->writer, &d) == LQ_OK);
}

static int archive_read(void *user, uint64_t offset, void *dst, size_t count)
{
    memcpy(dst, (const uint8_t *)user + (size_t)offset, count);
    return 0;
}

/* What is finished by now. */
static void archive_open(archive *a, int with_callback)
{
    lq_archive_source source;
    size_t needed = 0;
    memset(&source, 0, sizeof source);
    source.size = a->writer.offset;
    if (with_callback) {
        source.read_fn = archive_read;
        source.user = a->file;
    } else {
        source.bytes = a->file;
    }
    free(a->reader_mem);
    CHECK(lq_archive_open(&a->reader, &source, NULL, 0, &needed) == LQ_E_SPACE || needed == 0);
    a->reader_mem = source_alloc(needed);
    CHECK(lq_archive_open(&a->reader, &source, a->reader_mem, needed, &needed) == LQ_OK);
}

static void archive_free(archive *a)
{
    free(a->file);
    free(a->directory);
    free(a->reader_mem);
    memset(a, 0, sizeof *a);
}

#endif
