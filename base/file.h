/* base/file.h - files: whole reads with a bound, a value out of /proc, exact positional reads, atomic writes, locks. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Reads a whole regular file of at most `limit` bytes; NUL-terminated; caller frees *data.
 * ST_NOT_FOUND, ST_LIMIT, ST_IO (messages name the path). */
status file_read_all(const char *path, size_t limit, char **data, size_t *len);

/* Of a file like /proc/cpuinfo: what follows the colon in the first line that begins with `key`, cut to size; false and "" if there is none. */
bool file_value(const char *path, const char *key, char *out, size_t size);

/* Reads exactly n bytes at offset: retries short reads and EINTR; ST_FORMAT "shorter than ..." at end of
 * file (a file that shrinks while read ends here, not in SIGBUS).  `path` is for the message. */
status file_read_at(int fd, const char *path, uint64_t offset, void *dst, size_t n);

/* Writes exactly n bytes at offset; disk full is a message with the path and bytes wanted. */
status file_write_at(int fd, const char *path, uint64_t offset, const void *src, size_t n);

/* Writes path atomically: temporary file beside it, fsync, rename.  mode as for open(2). */
status file_write_all(const char *path, const void *data, size_t len, unsigned mode);

bool file_exists(const char *path);
bool file_is_dir(const char *path);
/* mkdir -p */
status file_make_dirs(const char *path);
/* dir + "/" + name into a new string; caller frees; NULL: out of memory. */
char *file_join(const char *dir, const char *name);

/* Takes an exclusive advisory lock on path (created if absent), waiting at most timeout_ms.  *fd is
 * closed by file_unlock. */
status file_lock(const char *path, int timeout_ms, int *fd);
void file_unlock(int *fd);

#endif
