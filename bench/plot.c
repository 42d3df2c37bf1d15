/* cc -O2 bench/plot.c -o plot -lm    A plot of KLD or of dB against bits, as SVG. */

/* Reads what `lm eval --json` or `rd --json` prints, from the named files or standard input, and
   writes the picture to standard output: bits an element to the right, one curve a method (the
   "curve" of each line); up is the KLD, on a log scale, or the dB above Shannon's bound.

       ./plot "SmolLM2-135M, 4 x 1024 tokens of prose" eval.json > kld.svg
       ./rd --json | ./plot "2^22 Gaussian samples" > rd.svg */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_POINTS = 512, MAX_CURVES = 16, NAME = 128, WIDTH = 860, HEIGHT = 500 };
enum { LEFT = 90, TOP = 44, RIGHT = 640, BOTTOM = 450 };

typedef struct point {
    double bits;
    double height; /* KLD or dB */
    int curve;
    char codec[NAME];
} point;

typedef struct plot {
    point points[MAX_POINTS];
    int count;
    char curves[MAX_CURVES][NAME];
    int curve_count;
    double top_bits;
    int decibel; /* heights are dB, from 0 on; else KLD, and the axis is one of decades */
    int low;
    int high;
} plot;

/* Colours that stay apart for most colour-blind readers (Okabe and Ito), then greys. */
static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00",
                                      "#56b4e9", "#000000", "#b0a000", "#777777", "#aa3377"};
enum { COLOURS = (int)(sizeof colours / sizeof colours[0]) };

static void fail(const char *name, int line, const char *fault)
{
    fprintf(stderr, "plot: %s:%d: %s\n", name, line, fault);
    exit(1);
}

/* ---- reading ---- */

/* The text after "key": in a line of JSON without nesting, or NULL. */
static const char *find(const char *line, const char *key)
{
    char quoted[NAME];
    (void)snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = strstr(line, quoted);
    return at != NULL ? at + strlen(quoted) : NULL;
}

static int read_number(const char *line, const char *key, double *x)
{
    const char *at = find(line, key);
    if (at == NULL) return 0;
    char *end;
    *x = strtod(at, &end);
    return end != at;
}

static int read_name(const char *line, const char *key, char *name)
{
    const char *at = find(line, key);
    if (at == NULL || at[0] != '"') return 0;
    size_t n = strcspn(at + 1, "\"\n");
    if (n == 0 || n >= NAME || at[1 + n] != '"') return 0;
    memcpy(name, at + 1, n);
    name[n] = '\0';
    return 1;
}

static int curve_of(plot *p, const char *name)
{
    int i;
    for (i = 0; i < p->curve_count; i++) {
        if (strcmp(p->curves[i], name) == 0) return i;
    }
    if (p->curve_count == MAX_CURVES) return -1;
    memcpy(p->curves[i], name, strlen(name) + 1);
    return p->curve_count++;
}

/* Profiles by their names alone: folders are the machine's. */
static void drop_folders(char *codec)
{
    char *at = strchr(codec, '@');
    char *slash = at ? strrchr(at, '/') : NULL;
    if (slash) memmove(at + 1, slash + 1, strlen(slash));
}

/* Lines without a codec describe the run and are passed over. */
static void read_file(plot *p, FILE *file, const char *name)
{
    char line[1024];
    char curve[NAME];
    int number = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        point *at = &p->points[p->count];
        number++;
        if (find(line, "codec") == NULL) continue;
        if (p->count == MAX_POINTS) fail(name, number, "too many codecs");
        int decibel = find(line, "decibel") != NULL;
        if (p->count == 0) p->decibel = decibel;
        if (decibel != p->decibel) fail(name, number, "KLD and dB in one picture");
        if (!read_name(line, "codec", at->codec) || !read_name(line, "curve", curve) ||
            !read_number(line, "bits", &at->bits) ||
            !read_number(line, decibel ? "decibel" : "kld", &at->height) ||
            !(at->bits >= 0.0 && at->bits <= 64.0) || !(at->height < (decibel ? 100.0 : 1e6)) ||
            (decibel && !(at->height >= 0.0))) {
            fail(name, number, "not a result of `lm eval --json` or `rd --json`");
        }
        if (!decibel && at->height < 1e-7) continue;
        drop_folders(at->codec);
        at->curve = curve_of(p, curve);
        if (at->curve < 0) fail(name, number, "too many curves");
        p->count++;
    }
    if (ferror(file)) fail(name, number, strerror(errno));
}

/* ---- drawing ---- */

static int by_curve_then_bits(const void *a, const void *b)
{
    const point *x = (const point *)a;
    const point *y = (const point *)b;
    if (x->curve != y->curve) return x->curve < y->curve ? -1 : 1;
    return (x->bits > y->bits) - (x->bits < y->bits);
}

static void find_range(plot *p)
{
    double low = 1e6;
    double high = 1e-7;
    p->top_bits = 1.0;
    for (int i = 0; i < p->count; i++) {
        low = p->points[i].height < low ? p->points[i].height : low;
        high = p->points[i].height > high ? p->points[i].height : high;
        p->top_bits = p->points[i].bits > p->top_bits ? p->points[i].bits : p->top_bits;
    }
    p->top_bits = ceil(p->top_bits + 0.25);
    p->low = p->decibel ? 0 : (int)floor(log10(low));
    p->high = (int)ceil(p->decibel ? high : log10(high));
    p->high += p->high == p->low;
}

static double place_x(const plot *p, double bits)
{
    return LEFT + (RIGHT - LEFT) * bits / p->top_bits;
}

/* part: height of a line of the grid, in decades or dB. */
static double place_line(const plot *p, double part)
{
    return BOTTOM - (BOTTOM - TOP) * (part - p->low) / (p->high - p->low);
}

static double place_y(const plot *p, double height)
{
    return place_line(p, p->decibel ? height : log10(height));
}

/* Text of the picture; the names come from a file. */
static void put_text(const char *s)
{
    for (; *s != '\0'; s++) {
        if (*s == '<') {
            fputs("&lt;", stdout);
        } else if (*s == '&') {
            fputs("&amp;", stdout);
        } else {
            putchar((unsigned char)*s < 32 ? ' ' : *s);
        }
    }
}

static void draw_grid(const plot *p)
{
    printf("<g stroke=\"#ddd\">\n");
    for (int d = p->low; d <= p->high; d++) {
        printf("<path d=\"M%d %.1fH%d\"/>\n", LEFT, place_line(p, d), RIGHT);
        for (int k = 2; k < 10 && d < p->high; k++) {
            double y = place_line(p, p->decibel ? d + (k - 1) / 10.0 : d + log10(k));
            printf("<path d=\"M%d %.1fH%d\" stroke=\"#f2f2f2\"/>\n", LEFT, y, RIGHT);
        }
    }
    for (int k = 0; k <= (int)p->top_bits; k++) {
        printf("<path d=\"M%.1f %dV%d\"/>\n", place_x(p, k), TOP, BOTTOM);
    }
    printf("</g>\n<path d=\"M%d %dV%dH%d\" fill=\"none\" stroke=\"#333\"/>\n", LEFT, TOP, BOTTOM,
           RIGHT);
}

static void draw_axes(const plot *p, const char *title)
{
    printf("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
           "font-family=\"sans-serif\" font-size=\"13\">\n",
           WIDTH, HEIGHT, WIDTH);
    printf("<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n", WIDTH, HEIGHT);
    printf("<text x=\"%d\" y=\"24\" font-size=\"16\">", LEFT);
    put_text(title);
    printf("</text>\n");
    draw_grid(p);
    for (int d = p->low; d <= p->high; d++) {
        printf("<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.*f</text>\n", LEFT - 8,
               place_line(p, d) + 4.0, !p->decibel && d < 0 ? -d : 0,
               p->decibel ? d : pow(10.0, d));
    }
    for (int k = 0; k <= (int)p->top_bits; k++) {
        printf("<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%d</text>\n", place_x(p, k),
               BOTTOM + 18, k);
    }
    printf("<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">bits an element, all bytes counted"
           "</text>\n",
           (LEFT + RIGHT) / 2, BOTTOM + 40);
    printf("<text transform=\"translate(20 %d) rotate(-90)\" text-anchor=\"middle\">%s</text>\n",
           (TOP + BOTTOM) / 2,
           p->decibel ? "squared error above Shannon's bound (dB)"
                      : "KLD against the raw cache (nats a token)");
}

/* Curves that lie lower at equal bits are better; each point tells its codec on hovering. */
static void draw_curve(const plot *p, int curve)
{
    const char *colour = colours[curve % COLOURS];
    double legend = TOP + 14 + 22.0 * curve;
    int started = 0;
    printf("<g fill=\"%s\" stroke=\"%s\">\n<path fill=\"none\" stroke-width=\"1.6\" d=\"", colour,
           colour);
    for (int i = 0; i < p->count; i++) {
        if (p->points[i].curve == curve) {
            printf("%s%.1f %.1f", started ? "L" : "M", place_x(p, p->points[i].bits),
                   place_y(p, p->points[i].height));
            started = 1;
        }
    }
    printf("\"/>\n");
    for (int i = 0; i < p->count; i++) {
        if (p->points[i].curve == curve) {
            printf("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.6\"><title>",
                   place_x(p, p->points[i].bits), place_y(p, p->points[i].height));
            put_text(p->points[i].codec);
            printf(p->decibel ? ": %.3f bits, %.2f dB" : ": %.3f bits, KLD %.5f",
                   p->points[i].bits, p->points[i].height);
            printf("</title></circle>\n");
        }
    }
    printf("<circle cx=\"%d\" cy=\"%.1f\" r=\"4\"/>\n", RIGHT + 22, legend - 4.0);
    printf("<text x=\"%d\" y=\"%.1f\" fill=\"#222\" stroke=\"none\">", RIGHT + 34, legend);
    put_text(p->curves[curve]);
    printf("</text>\n</g>\n");
}

int main(int argc, char **argv)
{
    static plot p;
    if (argc < 2) {
        fprintf(stderr, "usage: plot TITLE [FILE ...] > picture.svg\n");
        return 1;
    }
    for (int i = 2; i < argc; i++) {
        FILE *file = fopen(argv[i], "r");
        if (file == NULL) fail(argv[i], 0, strerror(errno));
        read_file(&p, file, argv[i]);
        fclose(file);
    }
    if (argc == 2) read_file(&p, stdin, "standard input");
    if (p.count == 0) {
        fail(argc > 2 ? argv[2] : "standard input", 0, "holds no results");
    }
    qsort(p.points, (size_t)p.count, sizeof p.points[0], by_curve_then_bits);
    find_range(&p);
    draw_axes(&p, argv[1]);
    for (int i = 0; i < p.curve_count; i++) {
        draw_curve(&p, i);
    }
    printf("</svg>\n");
    return fflush(stdout) != 0 || ferror(stdout);
}
