/* A disk that holds nothing but what was synced: preloaded into a program, it notes in the folder DISK what each fsync below
   the folder ROOT would have put there, and after CUT of them ends the program as a power cut does. Nothing is ever put
   there for real.

   DISK/INODE.data    what was in a file when it was synced last
   DISK/INODE.kept    the file itself, so that no other gets its number
   DISK/names.PATH    what was in a folder (`%` for `/`) when it was synced last: a line `INODE f|d NAME` each
   DISK/count         a byte for each sync */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static long synced;

static void must(int holds, const char *what) {
    if (!holds) {
        perror(what);
        _exit(99);
    }
}

static void keep(int folder, const char *name, ino_t inode) {
    char kept[PATH_MAX];
    snprintf(kept, sizeof kept, "%s/%lu.kept", getenv("DISK"), (unsigned long)inode);
    if (access(kept, F_OK) != 0) linkat(folder, name, AT_FDCWD, kept, AT_SYMLINK_FOLLOW);
}

static void sync_file(const char *path, ino_t inode) {
    char data[PATH_MAX], part[PATH_MAX], piece[1 << 16];
    snprintf(data, sizeof data, "%s/%lu.data", getenv("DISK"), (unsigned long)inode);
    snprintf(part, sizeof part, "%s/part", getenv("DISK"));
    int from = open(path, O_RDONLY), to = open(part, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    must(from >= 0 && to >= 0, path);
    for (ssize_t n; (n = read(from, piece, sizeof piece)) > 0;) must(write(to, piece, n) == n, data);
    close(from);
    close(to);
    must(rename(part, data) == 0, data);
    keep(AT_FDCWD, path, inode);
}

static void sync_folder(const char *path) {
    char names[2 * PATH_MAX], escaped[PATH_MAX];
    snprintf(escaped, sizeof escaped, "%s", path);
    for (char *c = escaped; *c; c++) if (*c == '/') *c = '%';
    snprintf(names, sizeof names, "%s/names.%s", getenv("DISK"), escaped);
    FILE *list = fopen(names, "w");
    DIR *folder = opendir(path);
    must(list && folder, path);
    for (struct dirent *entry; (entry = readdir(folder));) {
        struct stat found;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (fstatat(dirfd(folder), entry->d_name, &found, AT_SYMLINK_NOFOLLOW) != 0) continue;
        if (S_ISREG(found.st_mode)) keep(dirfd(folder), entry->d_name, found.st_ino);
        fprintf(list, "%lu %c %s\n", (unsigned long)found.st_ino, S_ISDIR(found.st_mode) ? 'd' : 'f', entry->d_name);
    }
    closedir(folder);
    must(fclose(list) == 0, names);
}

int fsync(int fd) {
    char link[64], path[PATH_MAX];
    struct stat found;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    must(length > 0 && fstat(fd, &found) == 0, link);
    path[length] = 0;
    if (strncmp(path, getenv("ROOT"), strlen(getenv("ROOT")))) return 0;
    pthread_mutex_lock(&one_at_a_time);
    if (synced++ == atol(getenv("CUT"))) _exit(137);
    char log[PATH_MAX];
    snprintf(log, sizeof log, "%s/count", getenv("DISK"));
    int count = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    must(count >= 0 && write(count, ".", 1) == 1, log);
    close(count);
    if (S_ISDIR(found.st_mode)) sync_folder(path); else sync_file(link, found.st_ino);
    pthread_mutex_unlock(&one_at_a_time);
    return 0;
}

int fdatasync(int fd) { return fsync(fd); }
