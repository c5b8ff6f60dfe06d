/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scope-bound cleanup: a variable marked cv_cleanup_x is released when it leaves scope, and
 * cv_steal() hands it out instead. Helpers keep errno so that an error path can still report it.
 */
#ifndef CV_CONFIG_CLEANUP_H
#define CV_CONFIG_CLEANUP_H

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cv_close_fd(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;

		(void)close(*fd);
		errno = saved;
		*fd = -1;
	}
}

static inline void cv_free_ptr(void *p)
{
	int saved = errno;

	free(*(void **)p);
	errno = saved;
}

static inline void cv_fclose_ptr(FILE **f)
{
	if (*f) {
		int saved = errno;

		(void)fclose(*f);
		errno = saved;
	}
}

static inline void cv_closedir_ptr(DIR **d)
{
	if (*d) {
		int saved = errno;

		(void)closedir(*d);
		errno = saved;
	}
}

static inline void cv_unlock_ptr(pthread_mutex_t **m)
{
	if (*m)
		(void)pthread_mutex_unlock(*m);
}

static inline pthread_mutex_t *cv_lock_get(pthread_mutex_t *m)
{
	(void)pthread_mutex_lock(m);
	return m;
}

#define cv_cleanup_close    __attribute__((cleanup(cv_close_fd)))
#define cv_cleanup_free	    __attribute__((cleanup(cv_free_ptr)))
#define cv_cleanup_fclose   __attribute__((cleanup(cv_fclose_ptr)))
#define cv_cleanup_closedir __attribute__((cleanup(cv_closedir_ptr)))

/* Holds the mutex until the end of the enclosing scope. */
#define CV_CONCAT_(a, b) a##b
#define CV_CONCAT(a, b)	 CV_CONCAT_(a, b)
#define CV_SCOPED_LOCK(m)                                                                          \
	__attribute__((cleanup(cv_unlock_ptr), unused)) pthread_mutex_t *CV_CONCAT(                \
		cv_lock_, __LINE__) = cv_lock_get(m)

/* Moves a pointer out of a cleanup variable. */
#define cv_steal(pp)                                                                               \
	__extension__({                                                                            \
		__typeof__(*(pp)) stolen_ = *(pp);                                                 \
		*(pp) = NULL;                                                                      \
		stolen_;                                                                           \
	})

static inline int cv_steal_fd(int *fd)
{
	int stolen = *fd;

	*fd = -1;
	return stolen;
}

#define CV_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define cv_container_of(ptr, type, member)                                                         \
	((type *)(void *)((char *)(ptr) - __builtin_offsetof(type, member)))

#endif
