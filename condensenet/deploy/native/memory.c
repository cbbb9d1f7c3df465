#define _GNU_SOURCE
#include "memory.h"

#include <stdlib.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

enum { CACHE_LINE = 64, LARGE_PAGE = 2 << 20, SPARE = 16 };

static size_t rounded(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

void *large_alloc(size_t bytes) {
    if (bytes < LARGE_PAGE / 2) return aligned_alloc(CACHE_LINE, rounded(bytes + 1, CACHE_LINE));
    bytes = rounded(bytes, LARGE_PAGE);
    void *room = aligned_alloc(LARGE_PAGE, bytes);
#ifdef MADV_HUGEPAGE
    if (room) madvise(room, bytes, MADV_HUGEPAGE); /* only advice: it may fail */
#endif
    return room;
}

/* The size of a scratch is in the cache line before it. */
static void *spare[SPARE];

void *scratch_borrow(size_t bytes) {
    for (int i = 0; i < SPARE; i++) {
        char *found = __atomic_exchange_n(&spare[i], NULL, __ATOMIC_ACQ_REL);
        if (found && *(size_t *)found >= bytes) return found + CACHE_LINE;
        free(found);
    }
    char *fresh = large_alloc(bytes + CACHE_LINE);
    if (!fresh) return NULL;
    *(size_t *)fresh = bytes;
    return fresh + CACHE_LINE;
}

void scratch_give_back(void *scratch) {
    char *room = (char *)scratch - CACHE_LINE;
    for (int i = 0; i < SPARE; i++) {
        void *none = NULL;
        if (__atomic_compare_exchange_n(&spare[i], &none, room, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) return;
    }
    free(room);
}

void scratch_free_all(void) {
    for (int i = 0; i < SPARE; i++) free(__atomic_exchange_n(&spare[i], NULL, __ATOMIC_ACQ_REL));
}
