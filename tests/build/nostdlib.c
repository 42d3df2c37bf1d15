/* cc -nostdlib -static -ffreestanding -fno-builtin: memcpy, memmove and memset, and nothing else.
   Packs a page and reads it back; the exit status is 0 when that worked. Linux on x86-64 or aarch64. */
#define LATTICEQUANT_IMPLEMENTATION
#include "../../latticequant.h"

void *memcpy(void *dst, const void *src, size_t count);
void *memmove(void *dst, const void *src, size_t count);
void *memset(void *dst, int byte, size_t count);
void _start(void);

void *memcpy(void *dst, const void *src, size_t count)
{
    volatile uint8_t *d = (volatile uint8_t *)dst;
    const uint8_t *s = (const uint8_t *)src;
    while (count--) {
        *d++ = *s++;
    }
    return dst;
}

void *memmove(void *dst, const void *src, size_t count)
{
    volatile uint8_t *d = (volatile uint8_t *)dst;
    const uint8_t *s = (const uint8_t *)src;
    if (d <= s) return memcpy(dst, src, count);
    while (count--) {
        d[count] = s[count];
    }
    return dst;
}

void *memset(void *dst, int byte, size_t count)
{
    volatile uint8_t *d = (volatile uint8_t *)dst;
    while (count--) {
        *d++ = (uint8_t)byte;
    }
    return dst;
}

static uint8_t memory[1 << 20];
static uint8_t scratch[1 << 20];
static uint8_t out[1 << 17];
static float src[64 * 64];
static float dst[64 * 64];

static int round_trip(void)
{
    const uint32_t dims = 64;
    lq_vectors vectors = {NULL, 0, LQ_F32};
    lq_vectors_out vectors_out = {NULL, 0, LQ_F32};
    lq_codec_desc desc;
    const uint8_t *page = out;
    memset(&desc, 0, sizeof desc);
    for (uint32_t i = 0; i < 64 * 64; i++) {
        src[i] = (float)((int32_t)(i * 2654435761u >> 20) - 2048) / 256.0f;
    }
    const void *slices[1];
    slices[0] = src;
    void *slices_out[1];
    slices_out[0] = dst;
    vectors.slices = slices;
    vectors_out.slices = slices_out;
    desc.geometry.stream = LQ_K;
    desc.geometry.slice_count = 1;
    desc.geometry.slice_dims = &dims;
    lq_profile profile;
    desc.profile = &profile;
    desc.step = 0.5f;
    const lq_tables *tables;
    if (lq_tables_init(&tables, memory, sizeof memory / 2)) return 1;
    desc.tables = tables;
    lq_codec *codec;
    size_t written;
    size_t page_bytes;
    if (lq_profile_init(&profile, scratch, 4096, &desc.geometry, 4.0f) ||
        lq_codec_init(&codec, memory + sizeof memory / 2, sizeof memory / 2, &desc) ||
        lq_codec_encode(codec, out, sizeof out, &written, &page_bytes, &vectors, NULL, 64,
                        scratch + 4096, sizeof scratch - 4096) ||
        lq_codec_decode(codec, &vectors_out, NULL, 64, &page, &page_bytes, scratch + 4096,
                        sizeof scratch - 4096)) {
        return 2;
    }
    for (uint32_t i = 0; i < 64 * 64; i++) {
        float error = src[i] - dst[i];
        if (error > 0.5f || error < -0.5f) return 3;
    }
    return written < 64 * 64 ? 0 : 4;
}

#if defined(__x86_64__)
__attribute__((force_align_arg_pointer))
#endif
void _start(void)
{
    int status = round_trip();
#if defined(__x86_64__)
    __asm__ volatile("syscall" : : "a"(60), "D"(status) : "rcx", "r11", "memory");
#elif defined(__aarch64__)
    register long number __asm__("x8") = 93;
    register long result __asm__("x0") = status;
    __asm__ volatile("svc 0" : : "r"(number), "r"(result) : "memory");
#endif
    for (;;) {
    }
}
