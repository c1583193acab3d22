/* A label-smoothed loss in C, for `multismooth check --exec './loss 0.1' -c torch`.
 *
 *     cc -O2 -o loss loss.c -lm
 *
 * Arguments: the label smoothing, and "all" to divide by all elements, the ignored ones included (a wrong port of
 * PyTorch's loss). Reads one JSON problem a line, and prints one JSON answer a line:
 *
 *     {"shape": [2, 3], "labels_shape": [2], "logits": [0.5, ...], "labels": [0, 2], "dtype": "float64"}
 *     {"loss": 1.25, "gradient": [-0.4, ...]}
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IGNORED -100

/* The numbers of the array that is called `name`; their count goes to *count. "nan" and "inf" are texts in the line. */
static double *numbers(const char *line, const char *name, size_t *count) {
    char key[32];
    snprintf(key, sizeof key, "\"%s\":", name);
    const char *at = strstr(line, key);
    size_t room = 16;
    double *found = malloc(room * sizeof *found);
    *count = 0;
    if (!at || !(at = strchr(at, '['))) return found;
    for (at++; *at && *at != ']';) {
        char *end;
        double value = strtod(at, &end);
        if (end == at) { at++; continue; } /* a comma, a space or a quote */
        if (*count == room) found = realloc(found, (room *= 2) * sizeof *found);
        found[(*count)++] = value;
        at = end;
    }
    return found;
}

static void print_number(double x) {
    if (isfinite(x)) printf("%.17g", x);
    else printf(isnan(x) ? "\"nan\"" : x > 0 ? "\"inf\"" : "\"-inf\"");
}

int main(int argc, char **argv) {
    double eps = argc > 1 ? atof(argv[1]) : 0.0;
    int by_all = argc > 2 && !strcmp(argv[2], "all");
    char *line = NULL;
    size_t size = 0;
    while (getline(&line, &size, stdin) > 0) {
        size_t axes, entries, n;
        double *shape = numbers(line, "shape", &axes), *z = numbers(line, "logits", &entries);
        double *labels = numbers(line, "labels", &n);
        size_t k = axes ? (size_t)shape[axes - 1] : 1, counted = 0;
        double loss = 0, *gradient = calloc(entries + 1, sizeof *gradient);
        const char *refused = n * k == entries ? NULL : "labels that are not one a row";
        for (size_t i = 0; i < n && !refused; i++) {
            const double *row = z + i * k;
            long y = (long)labels[i];
            if (y == IGNORED) continue;
            if (y < 0 || y >= (long)k) { refused = "a label outside the classes"; break; }
            double top = row[0], total = 0, mean = 0;
            for (size_t j = 1; j < k; j++) if (row[j] > top) top = row[j];
            for (size_t j = 0; j < k; j++) total += exp(row[j] - top);
            double lse = log(total); /* of the shifted logits */
            for (size_t j = 0; j < k; j++) {
                double q = (j == (size_t)y ? 1 - eps : 0) + eps / k;
                gradient[i * k + j] = exp(row[j] - top - lse) - q;
                if (eps) mean += (row[j] - top) / k;
            }
            loss += lse - (1 - eps) * (row[y] - top) - eps * mean;
            counted++;
        }
        size_t divisor = by_all ? n : counted;
        if (!divisor) divisor = 1;
        if (refused) {
            printf("{\"error\": \"%s\"}\n", refused);
        } else {
            printf("{\"loss\": ");
            print_number(loss / divisor);
            printf(", \"gradient\": [");
            for (size_t j = 0; j < entries; j++) {
                if (j) printf(", ");
                print_number(gradient[j] / divisor);
            }
            printf("]}\n");
        }
        fflush(stdout);
        free(shape), free(z), free(labels), free(gradient);
    }
    free(line);
    return 0;
}
