// Writes and syncs for ever, in slots of a file, and reports each record that is synced: its number, and the microseconds since the
// one before. Every 16th is a new file too, put in the place of another.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 256, WORDS = 512 };

static void must(int done, const char *what) {
    if (!done) {
        perror(what);
        exit(1);
    }
}

static uint64_t now_us(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000ull + time.tv_nsec / 1000;
}

static void put(int fd, uint64_t number, off_t at) {
    uint64_t words[WORDS];
    for (int i = 0; i < WORDS; i++) words[i] = number;
    must(pwrite(fd, words, sizeof words, at) == sizeof words, "pwrite");
    must(fsync(fd) == 0, "fsync");
}

int main(void) {
    int folder = open("/data", O_RDONLY | O_DIRECTORY);
    must(folder >= 0, "/data");
    int records = open("/data/records", O_RDWR | O_CREAT, 0644);
    must(records >= 0, "/data/records");
    uint64_t last = now_us();
    for (uint64_t number = 1;; number++) {
        put(records, number, (off_t)(number % SLOTS) * WORDS * 8);
        if (number % 16 == 0) {
            int file = open("/data/new", O_WRONLY | O_CREAT | O_TRUNC, 0644);
            must(file >= 0, "/data/new");
            put(file, number, 0);
            close(file);
            must(rename("/data/new", "/data/last") == 0, "rename");
            must(fsync(folder) == 0, "fsync of a folder");
        }
        uint64_t now = now_us();
        printf("%llu %llu\n", (unsigned long long)number, (unsigned long long)(now - last));
        fflush(stdout);
        last = now;
    }
}
