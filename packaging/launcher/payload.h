/* The payload behind the launcher: sections of files, listed in an index at the end of the executable. Written by packaging/pack.py.

     launcher (ELF) | section | section | ... | index | trailer
     trailer:  magic "FASTROUT", u64 offset of the index, u64 its size
     index:    u32 number of sections, then for each
                 name[16], key[64] (SHA-256 of its files, in hex), u64 offset, u64 size, u32 is_compressed, u32 number of entries,
                 and for each entry u32 mode, u64 size, u16 length of the path, the path
     section:  the files' bytes one after the other in the index's order (a link's bytes are its target), as one zstd frame or as they are

   All numbers are little-endian. The index is trusted: it is part of the program. What lies in a cache folder is not. */
#ifndef PAYLOAD_H
#define PAYLOAD_H

#include <stdint.h>
#include <sys/types.h>

#define KEY_LENGTH 64
#define PATH_BYTES 512
#define FILE_TIME 1000000000 /* the modification time of every unpacked file: a changed file has another one */

struct entry {
    uint32_t mode;
    uint64_t size;
    char path[PATH_BYTES];
};

struct section {
    char name[17];
    char key[KEY_LENGTH + 1];
    uint64_t offset, size;
    int is_compressed;
    uint32_t num_entries;
    struct entry *entries;
};

struct payload {
    int fd;
    uint32_t num_sections;
    struct section *sections;
};

/* Ends the program when the file is damaged. */
struct payload read_payload(const char *path);

/* Writes the section's files into the folder; 0, or -1 with errno. EBADMSG: the payload is damaged. */
int unpack_section(const struct payload *payload, const struct section *section, int folder);

/* Are the section's files all there, ours or root's, unchanged since they were unpacked? */
int is_whole(const struct section *section, int folder);

/* "owned by us or root, and no other user can write it" */
struct stat;
int is_private(const struct stat *found);

_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
