/* Reads the index, unpacks a section, checks an unpacked one. Includes nothing of launcher.c. */
#define _GNU_SOURCE
#include "payload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef WITH_ZSTD
#include <zstd.h>
#endif

#define BLOCK_BYTES (256 << 10)
#define MAX_INDEX_BYTES (16 << 20)

struct cursor {
    const unsigned char *at, *end;
};

static uint64_t number(struct cursor *cursor, int num_bytes) {
    uint64_t value = 0;
    if (cursor->end - cursor->at < num_bytes) die("this file is damaged (its index ends early): download it again");
    for (int i = 0; i < num_bytes; i++) value |= (uint64_t)*cursor->at++ << (8 * i);
    return value;
}

static void text(struct cursor *cursor, char *out, size_t length) {
    if ((size_t)(cursor->end - cursor->at) < length) die("this file is damaged (its index ends early): download it again");
    memcpy(out, cursor->at, length);
    out[length] = 0;
    cursor->at += length;
}

static void read_section(struct cursor *cursor, struct section *section) {
    text(cursor, section->name, 16);
    text(cursor, section->key, KEY_LENGTH);
    section->offset = number(cursor, 8);
    section->size = number(cursor, 8);
    section->is_compressed = (int)number(cursor, 4);
    section->num_entries = (uint32_t)number(cursor, 4);
    section->entries = calloc(section->num_entries + 1, sizeof *section->entries);
    if (!section->entries) die("out of memory");
    for (uint32_t i = 0; i < section->num_entries; i++) {
        struct entry *entry = &section->entries[i];
        entry->mode = (uint32_t)number(cursor, 4);
        entry->size = number(cursor, 8);
        size_t length = (size_t)number(cursor, 2);
        if (length >= PATH_BYTES) die("this file is damaged (a path is too long): download it again");
        text(cursor, entry->path, length);
    }
}

struct payload read_payload(const char *path) {
    struct payload payload = {.fd = open(path, O_RDONLY | O_CLOEXEC)};
    unsigned char trailer[24];
    struct stat found;
    if (payload.fd < 0 || fstat(payload.fd, &found)) die("cannot read %s: %s", path, strerror(errno));
    if (found.st_size < 24 || pread(payload.fd, trailer, 24, found.st_size - 24) != 24 || memcmp(trailer, "FASTROUT", 8))
        die("this file is damaged (it does not end as it should): download it again");
    struct cursor cursor = {trailer + 8, trailer + 24};
    uint64_t offset = number(&cursor, 8), size = number(&cursor, 8);
    if (size > MAX_INDEX_BYTES || offset > (uint64_t)found.st_size - 24 || size != (uint64_t)found.st_size - 24 - offset)
        die("this file is damaged (its parts do not fit together): download it again");
    unsigned char *index = malloc(size + 1);
    if (!index || pread(payload.fd, index, size, (off_t)offset) != (ssize_t)size) die("cannot read %s: %s", path, strerror(errno));
    cursor = (struct cursor){index, index + size};
    payload.num_sections = (uint32_t)number(&cursor, 4);
    payload.sections = calloc(payload.num_sections + 1, sizeof *payload.sections);
    if (!payload.sections) die("out of memory");
    for (uint32_t i = 0; i < payload.num_sections; i++) read_section(&cursor, &payload.sections[i]);
    free(index);
    return payload;
}

/* ---------------------------------------------------------------- unpack */

struct writer {
    const struct section *section;
    int folder;
    uint32_t next; /* entry */
    int fd;        /* of the file that is being written; -1: none */
    uint64_t left; /* of it, or of the link */
    char target[PATH_BYTES];
    size_t target_length;
};

static int end_entry(struct writer *writer) {
    const struct entry *entry = &writer->section->entries[writer->next++];
    struct timespec times[2] = {{FILE_TIME, 0}, {FILE_TIME, 0}};
    if (S_ISLNK(entry->mode)) {
        writer->target[writer->target_length] = 0;
        return symlinkat(writer->target, writer->folder, entry->path);
    }
    int fd = writer->fd, failed = fchmod(fd, entry->mode & 0777) || futimens(fd, times);
    writer->fd = -1;
    return close(fd) || failed ? -1 : 0;
}

static int begin_entry(struct writer *writer) {
    const struct entry *entry = &writer->section->entries[writer->next];
    char path[PATH_BYTES];
    strcpy(path, entry->path);
    for (char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdirat(writer->folder, path, 0700) && errno != EEXIST) return -1;
        *slash = '/';
    }
    writer->left = entry->size;
    writer->target_length = 0;
    if (S_ISLNK(entry->mode)) return entry->size < PATH_BYTES ? 0 : (errno = EBADMSG, -1);
    writer->fd = openat(writer->folder, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    return writer->fd < 0 ? -1 : 0;
}

/* Starts the next entry, and finishes empty ones before it. */
static int advance(struct writer *writer) {
    while (writer->next < writer->section->num_entries) {
        if (begin_entry(writer)) return -1;
        if (writer->left) return 0;
        if (end_entry(writer)) return -1;
    }
    return 0;
}

static int take(struct writer *writer, const char *bytes, size_t length) {
    while (length) {
        if (writer->next >= writer->section->num_entries) return errno = EBADMSG, -1;
        size_t now = length < writer->left ? length : (size_t)writer->left;
        if (writer->fd < 0) {
            memcpy(writer->target + writer->target_length, bytes, now);
            writer->target_length += now;
        } else {
            ssize_t written = write(writer->fd, bytes, now);
            if (written < 0 && errno == EINTR) continue;
            if (written < 0) return -1;
            now = (size_t)written;
        }
        bytes += now, length -= now, writer->left -= now;
        if (!writer->left && (end_entry(writer) || advance(writer))) return -1;
    }
    return 0;
}

static int feed(const struct payload *payload, struct writer *writer) {
    const struct section *section = writer->section;
    static char packed[BLOCK_BYTES];
#ifdef WITH_ZSTD
    static char plain[BLOCK_BYTES];
    ZSTD_DCtx *context = ZSTD_createDCtx();
    if (!context) return errno = ENOMEM, -1;
    ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, 31);
    size_t state = 1;
#endif
    for (uint64_t done = 0; done < section->size;) {
        uint64_t left = section->size - done;
        ssize_t got = pread(payload->fd, packed, left < BLOCK_BYTES ? left : BLOCK_BYTES, (off_t)(section->offset + done));
        if (got <= 0) return errno = got ? errno : EBADMSG, -1;
        done += (uint64_t)got;
        if (!section->is_compressed) {
            if (take(writer, packed, (size_t)got)) return -1;
            continue;
        }
#ifdef WITH_ZSTD
        ZSTD_inBuffer in = {packed, (size_t)got, 0};
        ZSTD_outBuffer out;
        do {
            out = (ZSTD_outBuffer){plain, BLOCK_BYTES, 0};
            state = ZSTD_decompressStream(context, &out, &in);
            if (ZSTD_isError(state)) return errno = EBADMSG, -1;
            if (take(writer, plain, out.pos)) return -1;
        } while (in.pos < in.size || out.pos == out.size);
#else
        return errno = ENOSYS, -1;
#endif
    }
#ifdef WITH_ZSTD
    ZSTD_freeDCtx(context);
    if (section->is_compressed && state) return errno = EBADMSG, -1; /* the frame's checksum has not been seen */
#endif
    return 0;
}

int unpack_section(const struct payload *payload, const struct section *section, int folder) {
    struct writer writer = {.section = section, .folder = folder, .fd = -1};
    int failed = advance(&writer) || feed(payload, &writer);
    int cause = errno;
    if (writer.fd >= 0) close(writer.fd);
    if (!failed && writer.next < section->num_entries) failed = 1, cause = EBADMSG;
    errno = cause;
    return failed ? -1 : 0;
}

/* ---------------------------------------------------------------- check */

int is_private(const struct stat *found) {
    int is_own_group = found->st_gid == getegid() && getegid() == geteuid(); /* one group per user, and a umask of 002 */
    return (found->st_uid == geteuid() || found->st_uid == 0) && !(found->st_mode & (is_own_group ? 002 : 022));
}

int is_whole(const struct section *section, int folder) {
    for (uint32_t i = 0; i < section->num_entries; i++) {
        const struct entry *entry = &section->entries[i];
        struct stat found;
        if (fstatat(folder, entry->path, &found, AT_SYMLINK_NOFOLLOW)) return 0;
        if ((found.st_mode & S_IFMT) != (entry->mode & S_IFMT) || (uint64_t)found.st_size != entry->size) return 0;
        if (S_ISREG(found.st_mode) && (!is_private(&found) || found.st_mtime != FILE_TIME)) return 0;
        if (S_ISREG(found.st_mode) && ((found.st_mode ^ entry->mode) & 0777)) return 0;
    }
    return 1;
}
