#ifndef CONDENSENET_MEMORY_H
#define CONDENSENET_MEMORY_H

#include <stddef.h>

/* Memory aligned for vectors, in large pages where it fills them and the system has them: a network walks through more
   memory than the processor has page addresses at hand. NULL if there is none. To be freed with free(). */
void *large_alloc(size_t bytes);

/* Scratch memory of at least so many bytes, content unknown, that all operators of the process share: what the last
   block left in the cache the next one uses. Each call of borrow() has its own until it is given back. */
void *scratch_borrow(size_t bytes);
void scratch_give_back(void *scratch);
void scratch_free_all(void); /* what nobody has borrowed */

#endif
