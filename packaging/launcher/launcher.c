/* The executable that users download: it unpacks its program into the user's cache if needed, and then becomes that program.

   The program is unpacked once per version into $XDG_CACHE_HOME/fastrouter/runtime/<SHA-256> and then executed in this same process: the pid
   that the user sees is the router's, so signals, exit codes and parents' deaths need no process between. If that folder cannot be used
   (read-only, full, noexec, of another user), a private temporary folder is used, and a separate process removes it after the program.

   Locks (flock, so that a dead process holds none):
     runtime/.lock         a process that unpacks or removes
     runtime/<key>/.lock   shared by every program that runs from there, from here to its end; its descriptor is left open for that
   Invariant: runtime/<key> appears complete, by a rename; and only a folder that no program uses is removed. */
#define _GNU_SOURCE
#include "payload.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOCK ".lock"
#define HALF ".new-" /* a folder that is being written, or whose writer has died */
#define TEMPORARY "fastrouter-"
#define STALE_S 3600 /* a temporary folder without a lock, which is made right after it */
#define FOLDER_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

static char place[PATH_MAX]; /* the folder that holds the sections' folders */

void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("fastrouter: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

/* ---------------------------------------------------------------- folders */

static void remove_tree(int parent, const char *name) {
    if (!unlinkat(parent, name, 0) || errno == ENOENT) return;
    int fd = openat(parent, name, FOLDER_FLAGS);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (folder) {
        fchmod(fd, 0700);
        for (struct dirent *entry; (entry = readdir(folder));)
            if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) remove_tree(fd, entry->d_name);
        closedir(folder);
    }
    unlinkat(parent, name, AT_REMOVEDIR);
}

/* A descriptor of the folder, which is made if it is missing; -1 when other users can write it. */
static int open_private(int parent, const char *name) {
    struct stat found;
    int refused = mkdirat(parent, name, 0700) ? errno : 0;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* a link is allowed: only we can have made it */
    if (fd < 0 && errno == ENOENT) errno = refused;
    if (fd >= 0 && (fstat(fd, &found) || !is_private(&found))) close(fd), fd = -1, errno = EPERM;
    return fd;
}

static int can_execute(int folder) {
    struct statvfs found;
    return !fstatvfs(folder, &found) && !(found.f_flag & ST_NOEXEC);
}

static int open_lock(int folder, int how) {
    int fd = openat(folder, LOCK, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return -1;
    while (flock(fd, how))
        if (errno != EINTR) return close(fd), -1;
    return fd;
}

/* ---------------------------------------------------------------- runtime/<key> */

/* Takes the folder's shared lock and checks its content. Returns the lock's descriptor, or -1. It is not closed by exec. */
static int enter(const struct section *section, int runtime) {
    int folder = openat(runtime, section->key, FOLDER_FLAGS), lock = -1, is_good = 0;
    struct stat found;
    if (folder < 0) return -1;
    if (!fstat(folder, &found) && is_private(&found) && (lock = openat(folder, LOCK, O_RDONLY | O_NOFOLLOW)) >= 0)
        /* its name was removed while we waited for it */
        is_good = !flock(lock, LOCK_SH) && !fstat(lock, &found) && found.st_nlink && is_whole(section, folder);
    close(folder);
    if (is_good) return lock;
    if (lock >= 0) close(lock);
    return -1;
}

/* Holding runtime/.lock: removes folders that a dead process left, or no program uses (not even this one). Returns how many are left. */
static int tidy(int runtime) {
    int fd = openat(runtime, ".", FOLDER_FLAGS), num_left = 0;
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (!folder) return 1;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (!strncmp(entry->d_name, HALF, strlen(HALF))) remove_tree(runtime, entry->d_name);
        if (entry->d_name[0] == '.') continue;
        int old = openat(runtime, entry->d_name, FOLDER_FLAGS);
        int lock = old < 0 ? -1 : openat(old, LOCK, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (lock >= 0 && !flock(lock, LOCK_EX | LOCK_NB)) {
            unlinkat(old, LOCK, 0); /* first, so that a process that waits for it notices */
            remove_tree(runtime, entry->d_name);
        } else {
            num_left++;
        }
        if (lock >= 0) close(lock);
        if (old >= 0) close(old);
    }
    closedir(folder);
    return num_left;
}

/* Holding runtime/.lock. Returns 0, or -1 with errno; then nothing is left. */
static int unpack(const struct payload *payload, const struct section *section, int runtime) {
    char half[32];
    snprintf(half, sizeof half, HALF "%d", getpid());
    int folder = mkdirat(runtime, half, 0700) ? -1 : openat(runtime, half, FOLDER_FLAGS);
    int failed = folder < 0 || unpack_section(payload, section, folder), cause = errno;
    int lock = failed ? -1 : openat(folder, LOCK, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (!failed && lock < 0) failed = 1, cause = errno;
    if (!failed) {
        /* The folder is damaged. A program may still run from it, and keeps its open files. */
        remove_tree(runtime, section->key);
        if (renameat(runtime, half, runtime, section->key)) failed = 1, cause = errno;
    }
    if (lock >= 0) close(lock);
    if (folder >= 0) close(folder);
    if (failed) remove_tree(runtime, half);
    errno = cause;
    return failed ? -1 : 0;
}

/* Returns the lock's descriptor, or -1 with errno. */
static int ensure(const struct payload *payload, const struct section *section, int runtime, int *has_unpacked) {
    int lock = enter(section, runtime);
    if (lock >= 0) return lock;
    int writing = open_lock(runtime, LOCK_EX);
    if (writing < 0) return -1;
    lock = enter(section, runtime); /* another process was faster */
    if (lock < 0) {
        *has_unpacked = 1;
        if (!unpack(payload, section, runtime) && (lock = enter(section, runtime)) < 0) errno = EIO;
    }
    int cause = errno;
    close(writing);
    errno = cause;
    return lock;
}

/* ---------------------------------------------------------------- where */

/* Every section, or none. Returns the lock of the first one, or -1. */
static int settle(const struct payload *payload, int runtime) {
    int first = -1, has_unpacked = 0;
    if (!can_execute(runtime)) return errno = ENOEXEC, -1;
    for (uint32_t i = 0; i < payload->num_sections; i++) {
        int lock = ensure(payload, &payload->sections[i], runtime, &has_unpacked);
        if (lock < 0) return -1;
        if (!i) first = lock;
    }
    if (has_unpacked) {
        int writing = open_lock(runtime, LOCK_EX | LOCK_NB);
        if (writing >= 0) tidy(runtime), close(writing);
    }
    return first;
}

static int open_below(const char *home, const char *path) {
    int fd = open(home, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat found;
    if (fd >= 0 && (fstat(fd, &found) || !is_private(&found))) close(fd), fd = -1, errno = EPERM;
    char copy[64];
    snprintf(copy, sizeof copy, "%s", path);
    for (char *name = strtok(copy, "/"); name && fd >= 0; name = strtok(NULL, "/")) {
        int inner = open_private(fd, name), cause = errno;
        close(fd);
        errno = cause;
        fd = inner;
    }
    return fd;
}

static int settle_in_cache(const struct payload *payload) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int is_named = cache && cache[0] == '/';
    if (!is_named && !(home && home[0] == '/')) return errno = ENOENT, -1;
    const char *below = is_named ? "fastrouter/runtime" : ".cache/fastrouter/runtime";
    if ((size_t)snprintf(place, sizeof place, "%s/%s", is_named ? cache : home, below) >= sizeof place) return errno = ENAMETOOLONG, -1;
    if (is_named) mkdir(cache, 0700);
    int runtime = open_below(is_named ? cache : home, below);
    int lock = runtime < 0 ? -1 : settle(payload, runtime), cause = errno;
    if (runtime >= 0) close(runtime);
    errno = cause;
    return lock;
}

/* Folders of programs that ended together with the process that should have removed them. */
static void sweep(const char *where) {
    DIR *folder = opendir(where);
    struct stat found;
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (strncmp(entry->d_name, TEMPORARY, strlen(TEMPORARY)) || strlen(entry->d_name) != strlen(TEMPORARY) + 6) continue;
        int fd = openat(dirfd(folder), entry->d_name, FOLDER_FLAGS);
        if (fd < 0) continue;
        int is_ours = !fstat(fd, &found) && found.st_uid == geteuid() && is_private(&found);
        int lock = is_ours ? openat(fd, LOCK, O_RDWR | O_NOFOLLOW | O_CLOEXEC) : -1;
        int is_free = lock >= 0 ? !flock(lock, LOCK_EX | LOCK_NB) : is_ours && found.st_mtime + STALE_S < time(NULL);
        if (is_free && !tidy(fd)) {
            unlinkat(fd, LOCK, 0);
            unlinkat(dirfd(folder), entry->d_name, AT_REMOVEDIR);
        }
        if (lock >= 0) close(lock);
        close(fd);
    }
    closedir(folder);
}

static int settle_in_temporary(const struct payload *payload, const char *where) {
    if (!where || where[0] != '/') return errno = ENOENT, -1;
    sweep(where);
    if ((size_t)snprintf(place, sizeof place, "%s/" TEMPORARY "XXXXXX", where) >= sizeof place) return errno = ENAMETOOLONG, -1;
    if (!mkdtemp(place)) return -1;
    int runtime = open(place, FOLDER_FLAGS);
    int lock = runtime < 0 ? -1 : settle(payload, runtime), cause = errno;
    if (runtime >= 0) close(runtime);
    if (lock < 0) remove_tree(AT_FDCWD, place);
    errno = cause;
    return lock;
}

/* A separate process without a parent, which removes the temporary folder when the last program that runs from it has ended. */
static void leave_remover(const char *key) {
    pid_t child = fork();
    if (child > 0) waitpid(child, NULL, 0);
    if (child) return;
    setsid();
    if (fork()) _exit(0);
    char path[PATH_MAX + KEY_LENGTH + sizeof LOCK + 2];
    snprintf(path, sizeof path, "%s/%s/" LOCK, place, key);
    for (int number = 1; number < NSIG; number++) signal(number, SIG_IGN);
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; fd++) dup2(null, fd);
    for (int fd = 3; fd < 1024; fd++) close(fd);
    if (chdir("/")) _exit(1);
    int lock = open(path, O_RDONLY | O_CLOEXEC);
    while (lock >= 0 && flock(lock, LOCK_EX) && errno == EINTR) continue;
    remove_tree(AT_FDCWD, place);
    _exit(0);
}

/* ---------------------------------------------------------------- main */

static void settle_anywhere(const struct payload *payload) {
    if (settle_in_cache(payload) >= 0) return;
    if (errno == EBADMSG) die("this file is damaged (it cannot be unpacked): download it again");
    const char *refused = errno == ENOENT && !place[0] ? NULL : strerror(errno);
    char cache[PATH_MAX];
    strcpy(cache, place);
    const char *folders[] = {getenv("TMPDIR"), getenv("XDG_RUNTIME_DIR"), "/tmp", "/var/tmp", "/dev/shm"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        int lock = settle_in_temporary(payload, folders[i]);
        if (lock < 0) continue;
        if (refused) fprintf(stderr, "fastrouter: %s cannot be used (%s); unpacked into %s, for this run only\n", cache, refused, place);
        leave_remover(payload->sections[0].key);
        return;
    }
    die("found no folder to unpack itself into (%s: %s): set XDG_CACHE_HOME to one that is writable and not mounted noexec", cache,
        refused ? refused : strerror(errno));
}

/* Opens descriptors 0 to 2 if they are closed (>&-), so that none of ours gets one of these numbers. */
static void open_missing(void) {
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd) _exit(1);
}

int main(int argc, char **argv) {
    open_missing();
    struct payload payload = read_payload("/proc/self/exe");
    if (!payload.num_sections || argc < 1) die("this file is damaged (there is nothing in it): download it again");
    settle_anywhere(&payload);
    char path[PATH_MAX + KEY_LENGTH + PATH_BYTES + 2];
    for (uint32_t i = 1; i < payload.num_sections; i++) { /* the other sections, by name: FASTROUTER_MODEL_FILE */
        char name[64];
        snprintf(name, sizeof name, "FASTROUTER_%s_FILE", payload.sections[i].name);
        snprintf(path, sizeof path, "%s/%s/%s", place, payload.sections[i].key, payload.sections[i].entries[0].path);
        setenv(name, path, 1);
    }
    snprintf(path, sizeof path, "%s/%s/fastrouter", place, payload.sections[0].key);
    execv(path, argv);
    die("cannot execute %s: %s", path, strerror(errno));
}
