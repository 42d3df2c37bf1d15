/* lm_token.h - part of lm.c: byte-level BPE from the metadata of a GGUF file

   Text is cut into pieces by a rule (the "pre-tokenizer", a regular expression that is written out
   by hand here), each piece is bytes, each byte is a token, and neighbours merge by rank. Text is
   taken as it is: Qwen's own tokenizer would first bring it into NFC. */
#ifndef LM_TOKEN_H
#define LM_TOKEN_H

#include "lm_gguf.h"
#include "lm_unicode.h"

/* How text is cut. SmolLM2 takes digits one by one before the rule of GPT-2 applies. Llama 3 takes
   a piece that is a token whole, before it looks for merges, and puts a BOS in front of a text
   where the file does not say otherwise; Qwen 2 takes digits one by one. */
enum { LM_PRE_GPT2, LM_PRE_SMOLLM, LM_PRE_LLAMA3, LM_PRE_QWEN2 };

typedef struct lm_merge {
    uint32_t left;
    uint32_t right;
    uint32_t rank;
    uint32_t result;
} lm_merge;

/* A candidate merge in the queue of one piece. */
typedef struct lm_candidate {
    const lm_merge *merge;
    uint32_t at;
} lm_candidate;

typedef struct lm_symbol {
    uint32_t token;
    uint32_t previous;
    uint32_t next;
} lm_symbol;

typedef struct lm_vocab {
    lm_bytes *tokens;
    uint8_t *special;
    uint32_t count;
    uint32_t *table;
    size_t table_mask;
    lm_merge *merges;
    size_t merge_mask;
    uint32_t byte_token[256];
    uint32_t *special_list;
    size_t special_count;
    int pre;
    int add_bos;
    uint32_t bos;
    uint32_t eos;
    lm_symbol *symbols;
    size_t symbol_room;
    lm_candidate *heap;
    size_t heap_count;
} lm_vocab;

typedef struct lm_tokens {
    uint32_t *id;
    size_t count;
    size_t room;
} lm_tokens;

#define LM_NONE 0xffffffffu

static void lm_tokens_push(lm_tokens *t, uint32_t id)
{
    if (t->count == t->room) {
        size_t room = t->room * 2 + 1024;
        uint32_t *grown = (uint32_t *)lm_alloc(room, sizeof *grown);
        if (t->count > 0) memcpy(grown, t->id, t->count * sizeof *grown);
        free(t->id);
        t->id = grown;
        t->room = room;
    }
    t->id[t->count++] = id;
}

/* ---- UTF-8 ---- */

/* One code point; a byte that starts none stands for itself as the replacement character. */
static size_t lm__utf8(const uint8_t *s, size_t count, uint32_t *c)
{
    size_t size = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    uint32_t u = s[0];
    if (size == 1) {
        *c = u;
        return 1;
    }
    *c = 0xfffd;
    if (size == 0 || size > count || s[0] > 0xf4) return 1;
    u &= 0x7fu >> size;
    for (size_t i = 1; i < size; i++) {
        if ((s[i] & 0xc0) != 0x80) return 1;
        u = u << 6 | (s[i] & 0x3fu);
    }
    *c = u;
    return size;
}

/* GPT-2 writes each byte as a printable character: the printable ones as themselves, the others
   from U+0100 on, in order. Here byte -> character. */
static uint32_t lm__byte_char(uint32_t byte)
{
    uint32_t moved = 256;
    if ((byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173)) return byte;
    for (uint32_t b = 0; b < byte; b++) {
        moved += !((b >= 33 && b <= 126) || (b >= 161 && b != 173));
    }
    return moved;
}

/* Writes the byte's character, 1 or 2 bytes long. */
static size_t lm__put_char(uint8_t *dst, uint32_t byte)
{
    uint32_t c = lm__byte_char(byte);
    if (c < 128) {
        dst[0] = (uint8_t)c;
        return 1;
    }
    dst[0] = (uint8_t)(0xc0 | c >> 6);
    dst[1] = (uint8_t)(0x80 | (c & 63));
    return 2;
}

/* ---- lookups ---- */

static size_t lm__hash_bytes(const uint8_t *s, size_t count)
{
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < count; i++) {
        h = (h ^ s[i]) * 1099511628211u;
    }
    return (size_t)(h ^ h >> 29);
}

static size_t lm__hash_pair(uint32_t a, uint32_t b)
{
    uint64_t h = ((uint64_t)a << 32 | b) * 0x9e3779b97f4a7c15u;
    return (size_t)(h ^ h >> 32);
}

static uint32_t lm_find_token(const lm_vocab *v, const uint8_t *s, size_t count)
{
    size_t i = lm__hash_bytes(s, count);
    for (;; i++) {
        uint32_t id = v->table[i & v->table_mask];
        if (id == LM_NONE) return LM_NONE;
        if (v->tokens[id].count == count && memcmp(v->tokens[id].at, s, count) == 0) return id;
    }
}

static const lm_merge *lm__find_merge(const lm_vocab *v, uint32_t left, uint32_t right)
{
    size_t i = lm__hash_pair(left, right);
    for (;; i++) {
        const lm_merge *m = &v->merges[i & v->merge_mask];
        if (m->result == LM_NONE) return NULL;
        if (m->left == left && m->right == right) return m;
    }
}

/* A power of two at least twice the count, so that a search in the table always ends. */
static size_t lm__table_size(size_t count)
{
    size_t n = 16;
    while (n < 2 * count + 2) {
        n *= 2;
    }
    return n;
}

/* ---- from the metadata ---- */

static lm_bytes lm__next_string(const uint8_t **p)
{
    lm_bytes s;
    s.count = (size_t)lm_load64(*p);
    s.at = *p + 8;
    *p = s.at + s.count;
    return s;
}

static void lm__load_tokens(lm_vocab *v, const lm_gguf *g)
{
    const lm_key *key = lm_key_array(g, "tokenizer.ggml.tokens", LM_STRING);
    const uint8_t *p = key->value;
    size_t i, size, slot;
    if (key->item_count < 1 || key->item_count > (1u << 22)) {
        lm_fail("%s: a vocabulary of %zu tokens", g->path, key->item_count);
    }
    v->count = (uint32_t)key->item_count;
    v->tokens = (lm_bytes *)lm_alloc(v->count, sizeof *v->tokens);
    size = lm__table_size(v->count);
    v->table_mask = size - 1;
    v->table = (uint32_t *)lm_alloc(size, sizeof *v->table);
    memset(v->table, 0xff, size * sizeof *v->table);
    for (i = 0; i < v->count; i++) {
        v->tokens[i] = lm__next_string(&p);
        if (lm_find_token(v, v->tokens[i].at, v->tokens[i].count) != LM_NONE) continue;
        slot = lm__hash_bytes(v->tokens[i].at, v->tokens[i].count);
        while (v->table[slot & v->table_mask] != LM_NONE) {
            slot++;
        }
        v->table[slot & v->table_mask] = (uint32_t)i;
    }
}

/* Vocabularies may lack bytes that no text holds; those vanish from the text, as they do in the
   program that trained them. */
static void lm__load_bytes(lm_vocab *v)
{
    for (uint32_t b = 0; b < 256; b++) {
        uint8_t s[2];
        v->byte_token[b] = lm_find_token(v, s, lm__put_char(s, b));
    }
}

/* "left right" names two tokens whose concatenation is a third. */
static void lm__load_merge(lm_vocab *v, const lm_gguf *g, lm_bytes s, uint32_t rank)
{
    const uint8_t *space = (const uint8_t *)memchr(s.at, ' ', s.count);
    size_t slot, n;
    uint8_t joined[1024];
    if (space == NULL || s.count > sizeof joined) {
        lm_fail("%s: merge %u is not two tokens", g->path, rank);
    }
    n = (size_t)(space - s.at);
    memcpy(joined, s.at, n);
    memcpy(joined + n, space + 1, s.count - n - 1);
    lm_merge m;
    m.left = lm_find_token(v, joined, n);
    m.right = lm_find_token(v, joined + n, s.count - n - 1);
    m.rank = rank;
    m.result = lm_find_token(v, joined, s.count - 1);
    if (m.left == LM_NONE || m.right == LM_NONE || m.result == LM_NONE) {
        lm_fail("%s: merge %u names a token that is not in the vocabulary", g->path, rank);
    }
    if (lm__find_merge(v, m.left, m.right) != NULL) return;
    slot = lm__hash_pair(m.left, m.right);
    while (v->merges[slot & v->merge_mask].result != LM_NONE) {
        slot++;
    }
    v->merges[slot & v->merge_mask] = m;
}

static void lm__load_merges(lm_vocab *v, const lm_gguf *g)
{
    const lm_key *key = lm_key_array(g, "tokenizer.ggml.merges", LM_STRING);
    const uint8_t *p = key->value;
    size_t i, size;
    if (key->item_count > (1u << 22)) {
        lm_fail("%s: %zu merges", g->path, key->item_count);
    }
    size = lm__table_size(key->item_count);
    v->merge_mask = size - 1;
    v->merges = (lm_merge *)lm_alloc(size, sizeof *v->merges);
    for (i = 0; i < size; i++) {
        v->merges[i].result = LM_NONE;
    }
    for (i = 0; i < key->item_count; i++) {
        lm__load_merge(v, g, lm__next_string(&p), (uint32_t)i);
    }
}

/* Control and user-defined tokens are matched in the text before anything is cut. */
static void lm__load_special(lm_vocab *v, const lm_gguf *g)
{
    const lm_key *key = lm_key_array(g, "tokenizer.ggml.token_type", LM_I32);
    if (key->item_count != v->count) {
        lm_fail("%s: %zu token types for %u tokens", g->path, key->item_count, v->count);
    }
    v->special = (uint8_t *)lm_alloc(v->count, 1);
    v->special_list = (uint32_t *)lm_alloc(v->count, sizeof *v->special_list);
    for (size_t i = 0; i < v->count; i++) {
        uint32_t type = lm_load32(key->value + 4 * i);
        v->special[i] = (type == 3 || type == 4) && v->tokens[i].count > 0;
        if (v->special[i]) v->special_list[v->special_count++] = (uint32_t)i;
    }
}

static int lm_pre_find(lm_bytes name)
{
    if (lm_same(name, "smollm")) return LM_PRE_SMOLLM;
    if (lm_same(name, "llama-bpe") || lm_same(name, "llama3") || lm_same(name, "llama-v3")) {
        return LM_PRE_LLAMA3;
    }
    if (lm_same(name, "qwen2")) return LM_PRE_QWEN2;
    return name.count == 0 || lm_same(name, "gpt-2") || lm_same(name, "default") ? LM_PRE_GPT2 : -1;
}

static const char *lm__tokenizer_title(lm_bytes model)
{
    return lm_same(model, "llama")  ? "SentencePiece"
           : lm_same(model, "bert") ? "WordPiece"
           : lm_same(model, "t5")   ? "Unigram"
           : model.count == 0       ? "missing"
                                    : "another";
}

/* Whether texts begin with a BOS: the file says, or the family of the pre-tokenizer. */
static void lm__load_bos(lm_vocab *v, const lm_gguf *g)
{
    static const char name[] = "tokenizer.ggml.bos_token_id";
    v->add_bos = lm_key_size(g, "tokenizer.ggml.add_bos_token", v->pre == LM_PRE_LLAMA3, 1) != 0;
    v->bos = (uint32_t)lm_key_size(g, name, v->add_bos ? -1 : 0, v->count - 1);
}

static void lm_vocab_open(lm_vocab *v, const lm_gguf *g, const char *pre)
{
    lm_bytes model = lm_key_string(g, "tokenizer.ggml.model");
    lm_bytes rule = lm_key_string(g, "tokenizer.ggml.pre");
    memset(v, 0, sizeof *v);
    if (!lm_same(model, "gpt2")) {
        lm_fail("%s: its tokenizer is %s, not byte-level BPE (tokenizer.ggml.model is '%.*s')",
                g->path, lm__tokenizer_title(model), (int)(model.count < 64 ? model.count : 64),
                (const char *)model.at);
    }
    if (pre != NULL) {
        rule.at = (const uint8_t *)pre;
        rule.count = strlen(pre);
    }
    v->pre = lm_pre_find(rule);
    if (v->pre < 0) {
        lm_fail("%s: unknown pre-tokenizer '%.*s' (known: smollm, gpt-2, llama-bpe, qwen2; --pre "
                "NAME overrides)",
                g->path, (int)(rule.count < 64 ? rule.count : 64), (const char *)rule.at);
    }
    lm__load_tokens(v, g);
    lm__load_bytes(v);
    lm__load_merges(v, g);
    lm__load_special(v, g);
    lm__load_bos(v, g);
    v->eos = (uint32_t)lm_key_size(g, "tokenizer.ggml.eos_token_id", 0, v->count - 1);
}

static void lm_vocab_close(lm_vocab *v)
{
    free(v->tokens);
    free(v->table);
    free(v->merges);
    free(v->special);
    free(v->special_list);
    free(v->symbols);
    free(v->heap);
    memset(v, 0, sizeof *v);
}

/* ---- cutting the text ---- */

enum { LM_IS_OTHER, LM_IS_LETTER, LM_IS_NUMBER, LM_IS_SPACE };

static int lm__class(uint32_t c)
{
    return lm_is_letter(c)   ? LM_IS_LETTER
           : lm_is_number(c) ? LM_IS_NUMBER
           : lm_is_space(c)  ? LM_IS_SPACE
                             : LM_IS_OTHER;
}

/* Where the run of characters of one class that starts at byte `at` ends. */
static size_t lm__run(const uint8_t *s, size_t count, size_t at, int class_, size_t most)
{
    uint32_t c;
    while (at < count && most-- > 0) {
        size_t size = lm__utf8(s + at, count - at, &c);
        if (lm__class(c) != class_) break;
        at += size;
    }
    return at;
}

/* 's 't 'm 'd 're 've 'll: bytes of the contraction at the front, or 0. */
static size_t lm__contraction(const uint8_t *s, size_t count, int any_case)
{
    static const char *const forms[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    size_t i, j;
    if (count < 2 || s[0] != '\'') return 0;
    if (any_case && count > 2 && s[1] == 0xc5 && s[2] == 0xbf) {
        return 3; /* the long s, which folds to s */
    }
    for (i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        size_t n = strlen(forms[i]);
        for (j = 0; j < n && j + 1 < count; j++) {
            int c = s[j + 1];
            c = any_case && c >= 'A' && c <= 'Z' ? c | 32 : c;
            if (c != forms[i][j]) break;
        }
        if (j == n) return n + 1;
    }
    return 0;
}

/* White space up to `end`: the last character is left to what follows, unless it is alone. */
static size_t lm__space(const uint8_t *s, size_t count, size_t end)
{
    size_t at = 0;
    size_t last = 0;
    if (end == count) return end;
    uint32_t c;
    while (at < end) {
        last = at;
        at += lm__utf8(s + at, end - at, &c);
    }
    return last > 0 ? last : end;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t lm__piece_gpt2(const uint8_t *s, size_t count)
{
    size_t first = lm__contraction(s, count, 0);
    size_t at = s[0] == ' ' && count > 1;
    if (first > 0) return first;
    uint32_t c;
    (void)lm__utf8(s + at, count - at, &c);
    int class_ = lm__class(c);
    if (class_ != LM_IS_SPACE) return lm__run(s, count, at, class_, SIZE_MAX);
    return lm__space(s, count, lm__run(s, count, 0, LM_IS_SPACE, SIZE_MAX));
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*
   |\s*[\r\n]+|\s+(?!\S)|\s+, with 3 digits of Llama 3, 1 of Qwen 2 */
static size_t lm__piece_llama3(const uint8_t *s, size_t count, size_t digits)
{
    size_t at = lm__contraction(s, count, 1);
    size_t size, end;
    if (at > 0) return at;
    uint32_t c;
    size = lm__utf8(s, count, &c);
    int class_ = lm__class(c);
    end = class_ == LM_IS_LETTER ? 0 : size;
    if (class_ != LM_IS_NUMBER && c != '\r' && c != '\n') {
        at = lm__run(s, count, end, LM_IS_LETTER, SIZE_MAX);
        if (at > end) return at;
    }
    if (class_ == LM_IS_NUMBER) return lm__run(s, count, 0, LM_IS_NUMBER, digits);
    end = lm__run(s, count, s[0] == ' ', LM_IS_OTHER, SIZE_MAX);
    if (end > (size_t)(s[0] == ' ')) {
        while (end < count && (s[end] == '\r' || s[end] == '\n')) {
            end++;
        }
        return end;
    }
    end = lm__run(s, count, 0, LM_IS_SPACE, SIZE_MAX);
    for (at = end; at > 0; at--) {
        if (s[at - 1] == '\r' || s[at - 1] == '\n') return at;
    }
    return lm__space(s, count, end);
}

/* ---- merging ---- */

static int lm__before(lm_candidate a, lm_candidate b)
{
    return a.merge->rank != b.merge->rank ? a.merge->rank < b.merge->rank : a.at < b.at;
}

static void lm__heap_push(lm_vocab *v, lm_candidate x)
{
    size_t i = v->heap_count++;
    while (i > 0 && lm__before(x, v->heap[(i - 1) / 2])) {
        v->heap[i] = v->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    v->heap[i] = x;
}

static lm_candidate lm__heap_pop(lm_vocab *v)
{
    lm_candidate top = v->heap[0];
    lm_candidate x = v->heap[--v->heap_count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= v->heap_count) break;
        if (child + 1 < v->heap_count && lm__before(v->heap[child + 1], v->heap[child])) {
            child++;
        }
        if (!lm__before(v->heap[child], x)) break;
        v->heap[i] = v->heap[child];
        i = child;
    }
    v->heap[i] = x;
    return top;
}

/* Puts the merge of the symbol at `at` with its right neighbour into the queue, if there is one. */
static void lm__propose(lm_vocab *v, uint32_t at)
{
    if (at == LM_NONE || v->symbols[at].next == LM_NONE) return;
    lm_candidate x;
    x.merge = lm__find_merge(v, v->symbols[at].token, v->symbols[v->symbols[at].next].token);
    x.at = at;
    if (x.merge != NULL) lm__heap_push(v, x);
}

/* Every merge adds at most two candidates, so 3 * count entries suffice. */
static void lm__reserve(lm_vocab *v, size_t count)
{
    if (count <= v->symbol_room) return;
    if (count > LM_NONE / 4) lm_fail("a word of %zu bytes is too long", count);
    free(v->symbols);
    free(v->heap);
    v->symbol_room = count * 2;
    v->symbols = (lm_symbol *)lm_alloc(v->symbol_room, sizeof *v->symbols);
    v->heap = (lm_candidate *)lm_alloc(v->symbol_room * 3, sizeof *v->heap);
}

/* The token that is the whole piece, or LM_NONE; none is sought beyond 256 bytes. */
static uint32_t lm__whole(const lm_vocab *v, const uint8_t *s, size_t count)
{
    uint8_t text[2 * 256];
    size_t n = 0;
    for (size_t i = 0; i < count && count <= 256; i++) {
        n += lm__put_char(text + n, s[i]);
    }
    return n > 0 ? lm_find_token(v, text, n) : LM_NONE;
}

static void lm__encode_piece(lm_vocab *v, const uint8_t *s, size_t count, lm_tokens *out)
{
    uint32_t whole = v->pre == LM_PRE_LLAMA3 ? lm__whole(v, s, count) : LM_NONE;
    uint32_t n = 0;
    if (whole != LM_NONE) {
        lm_tokens_push(out, whole);
        return;
    }
    lm__reserve(v, count);
    v->heap_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (v->byte_token[s[i]] != LM_NONE) {
            v->symbols[n].token = v->byte_token[s[i]];
            v->symbols[n].previous = n > 0 ? n - 1 : LM_NONE;
            v->symbols[n].next = n + 1;
            n++;
        }
    }
    if (n == 0) return;
    v->symbols[n - 1].next = LM_NONE;
    for (uint32_t i = 0; i + 1 < n; i++) {
        lm__propose(v, i);
    }
    while (v->heap_count > 0) {
        lm_candidate x = lm__heap_pop(v);
        lm_symbol *left = &v->symbols[x.at];
        if (left->token != x.merge->left || left->next == LM_NONE) continue;
        lm_symbol *right = &v->symbols[left->next];
        if (right->token != x.merge->right) continue;
        left->token = x.merge->result;
        right->token = LM_NONE;
        left->next = right->next;
        if (left->next != LM_NONE) v->symbols[left->next].previous = x.at;
        lm__propose(v, x.at);
        lm__propose(v, left->previous);
    }
    for (uint32_t i = 0; i != LM_NONE; i = v->symbols[i].next) {
        lm_tokens_push(out, v->symbols[i].token);
    }
}

/* Where the stretch of text ends that the rule may look at from `at`: SmolLM2 takes out each digit
   first, and the rule sees what lies between them as texts of their own. */
static size_t lm__stretch(int pre, const uint8_t *s, size_t count, size_t at)
{
    if (pre != LM_PRE_SMOLLM) return count;
    uint32_t c;
    size_t size = lm__utf8(s + at, count - at, &c);
    if (lm_is_number(c)) return at + size;
    for (at += size; at < count; at += size) {
        size = lm__utf8(s + at, count - at, &c);
        if (lm_is_number(c)) break;
    }
    return at;
}

/* Bytes of the first piece of a stretch. */
static size_t lm__piece(int pre, const uint8_t *s, size_t count)
{
    return pre == LM_PRE_LLAMA3  ? lm__piece_llama3(s, count, 3)
           : pre == LM_PRE_QWEN2 ? lm__piece_llama3(s, count, 1)
                                 : lm__piece_gpt2(s, count);
}

/* Text without special tokens. */
static void lm__encode_plain(lm_vocab *v, const uint8_t *s, size_t count, lm_tokens *out)
{
    size_t at = 0;
    size_t limit = 0;
    while (at < count) {
        limit = at < limit ? limit : lm__stretch(v->pre, s, count, at);
        size_t size = lm__piece(v->pre, s + at, limit - at);
        lm__encode_piece(v, s + at, size, out);
        at += size;
    }
}

/* The longest special token at the front of the text, or LM_NONE. */
static uint32_t lm__special_at(const lm_vocab *v, const uint8_t *s, size_t count)
{
    uint32_t best = LM_NONE;
    for (size_t i = 0; i < v->special_count; i++) {
        uint32_t id = v->special_list[i];
        lm_bytes t = v->tokens[id];
        if (t.at[0] == s[0] && t.count <= count && memcmp(t.at, s, t.count) == 0 &&
            (best == LM_NONE || t.count > v->tokens[best].count)) {
            best = id;
        }
    }
    return best;
}

/* With a BOS in front where the model wants one, unless the text begins with it itself. */
static void lm_encode(lm_vocab *v, const uint8_t *s, size_t count, lm_tokens *out)
{
    size_t start = 0;
    size_t at = 0;
    if (v->add_bos && (count == 0 || lm__special_at(v, s, count) != v->bos)) {
        lm_tokens_push(out, v->bos);
    }
    while (at < count) {
        uint32_t id = lm__special_at(v, s + at, count - at);
        if (id == LM_NONE) {
            at++;
            continue;
        }
        lm__encode_plain(v, s + start, at - start, out);
        lm_tokens_push(out, id);
        at += v->tokens[id].count;
        start = at;
    }
    lm__encode_plain(v, s + start, count - start, out);
}

/* Writes the bytes that a token stands for; special tokens are written as they are spelled. */
static void lm_decode_to(const lm_vocab *v, uint32_t id, FILE *file)
{
    lm_bytes t = v->tokens[id];
    size_t at = 0;
    while (at < t.count) {
        uint32_t c, b;
        size_t size = lm__utf8(t.at + at, t.count - at, &c);
        for (b = 0; b < 256 && lm__byte_char(b) != c; b++) {
        }
        if (v->special[id] || b == 256) {
            (void)fwrite(t.at + at, 1, size, file);
        } else {
            (void)fputc((int)b, file);
        }
        at += size;
    }
}

#endif
