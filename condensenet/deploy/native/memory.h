#ifndef CONDENSENET_MEMORY_H
#define CONDENSENET_MEMORY_H

#include <stddef.h>

/* Memory aligned for vectors, in huge pages if it is large enough and the system has them: a network touches more
   memory than the TLB covers with small pages. NULL if there is none. To be freed with free(). */
void *large_alloc(size_t bytes);

/* Uninitialized scratch memory of at least so many bytes, from a pool shared by all operators of the process: a block
   reuses what the last one left in the cache. It belongs to the caller of borrow() until it is given back. */
void *scratch_borrow(size_t bytes);
void scratch_give_back(void *scratch);
void scratch_free_all(void); /* all that is not borrowed */

#endif
