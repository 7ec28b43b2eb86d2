/* The C helpers of core/ring.pxi under stress, for sanitizers. `helpers.h` is cut out of ring.pxi by ring_stress.py.
 *
 *   ring_stress threads RECORDS SEED     producer and consumer are threads: for ThreadSanitizer
 *   ring_stress processes RECORDS SEED   the producer is a process that is killed at a random moment, again and again
 *
 * push() and drain() take the same steps as try_push and drain in ring.pxi. Each record has its number, a random length and a checksum; stalls
 * are random. Exit code 0: all that was published came, in order and intact. */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <time.h>
#include "helpers.h"

enum { TAIL = 64, HEAD = 128, ALIVE = 320, HEADER_BYTES = sizeof(fr_record), CAPACITY = 1 << 13, MAX_BYTES = 700, WAIT_MS = 60000 };

typedef struct { char *control, *data; int doorbell; } ring;
typedef struct { ring ring; uint64_t head, tail, random, count, last; } end; /* `last`: how many records there will be */

static void fail(const char *why, uint64_t number) {
    fprintf(stderr, "record %llu: %s\n", (unsigned long long)number, why);
    exit(1);
}
static uint64_t draw(uint64_t *state) { /* xorshift */
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}
static uint32_t checksum(const unsigned char *bytes, uint64_t size) {
    uint32_t sum = 2166136261u;
    for (uint64_t i = 0; i < size; i++) sum = (sum ^ bytes[i]) * 16777619u;
    return sum;
}
static void stall(uint64_t *random) {
    struct timespec pause = {0, (long)(draw(random) % 200000)};
    if (draw(random) % 512 == 0) nanosleep(&pause, NULL);
}

/* ---------------------------------------------------------------- producer */

static int push(end *p, const unsigned char *payload, uint32_t size) {
    uint64_t total = HEADER_BYTES + ((size + 7ull) & ~7ull);
    if (p->head + total - p->tail > CAPACITY) {
        p->tail = fr_load(p->ring.control, TAIL);
        if (p->head + total - p->tail > CAPACITY) return 0;
    }
    fr_record *record = (fr_record *)(p->ring.data + (p->head & (CAPACITY - 1)));
    *record = (fr_record){size, (uint32_t)p->count, 1, 0, 0, checksum(payload, size), 0};
    memcpy((char *)record + HEADER_BYTES, payload, size);
    p->head += total;
    fr_store(p->ring.control, HEAD, p->head);
    return 1;
}
static void ring_doorbell(end *p) {
    if (fr_take_asleep(p->ring.control) && fr_signal(p->ring.doorbell)) fail("the doorbell does not work", p->count);
}
static void *produce(void *argument) {
    end *p = argument;
    unsigned char payload[MAX_BYTES];
    for (; p->count < p->last; p->count++) {
        uint32_t size = (uint32_t)(draw(&p->random) % (draw(&p->random) % 16 ? 40 : MAX_BYTES));
        memset(payload, (int)(draw(&p->random) & 255), size);
        while (!push(p, payload, size)) {
            ring_doorbell(p);
            sched_yield();
        }
        fr_bump(p->ring.control, ALIVE);
        if (draw(&p->random) % 3 == 0) {
            ring_doorbell(p);
            stall(&p->random);
        }
    }
    ring_doorbell(p);
    return NULL;
}

/* ---------------------------------------------------------------- consumer */

static void deliver(end *c, uint64_t waiting) {
    fr_record record;
    while (waiting) {
        const char *at = c->ring.data + (c->tail & (CAPACITY - 1));
        memcpy(&record, at, HEADER_BYTES);
        uint64_t total = HEADER_BYTES + ((record.size + 7ull) & ~7ull);
        if (waiting < HEADER_BYTES || total > waiting) fail("impossible", c->count);
        if (record.request_id != (uint32_t)c->count) fail("out of order", c->count);
        if (checksum((const unsigned char *)at + HEADER_BYTES, record.size) != record.num_tokens) fail("wrong checksum", c->count);
        c->tail += total;
        waiting -= total;
        c->count++;
    }
    fr_store(c->ring.control, TAIL, c->tail);
}
static void drain(end *c) {
    uint64_t taken = 0;
    fr_clear(c->ring.doorbell);
    fr_set_asleep(c->ring.control, 0);
    for (;;) {
        uint64_t waiting = fr_load(c->ring.control, HEAD) - c->tail;
        if (waiting > CAPACITY || waiting & 7) fail("impossible indices", c->count);
        if (!waiting) {
            fr_set_asleep(c->ring.control, 1);
            if (fr_load(c->ring.control, HEAD) == c->tail) return;
            fr_set_asleep(c->ring.control, 0);
            continue;
        }
        if (taken >= CAPACITY) {
            fr_signal(c->ring.doorbell);
            return;
        }
        taken += waiting;
        deliver(c, waiting);
    }
}
static void await(end *c, uint64_t wanted) {
    struct pollfd doorbell = {c->ring.doorbell, POLLIN, 0};
    while (c->count < wanted) {
        if (poll(&doorbell, 1, WAIT_MS) != 1) fail("a wake-up was lost", c->count);
        stall(&c->random);
        drain(c);
    }
}

/* ---------------------------------------------------------------- both */

static ring make(void) {
    size_t page = fr_page_bytes();
    int memory = memfd_create("ring", 0);
    if (memory < 0 || ftruncate(memory, (off_t)(page + CAPACITY))) fail("no memory", 0);
    char *control = fr_map(memory, page, CAPACITY);
    if (!control) fail("cannot be mapped", 0);
    fr_close(memory);
    ring made = {control, control + page, eventfd(0, EFD_NONBLOCK)};
    fr_set_asleep(control, 1);
    return made;
}
static void with_threads(uint64_t records, uint64_t seed) {
    end producer = {make(), 0, 0, seed, 0, records}, consumer = producer;
    pthread_t thread;
    pthread_create(&thread, NULL, produce, &producer);
    await(&consumer, records);
    pthread_join(thread, NULL);
    if (consumer.count != records) fail("too many", consumer.count);
    printf("%llu records\n", (unsigned long long)consumer.count);
}
static void with_processes(uint64_t records, uint64_t seed) {
    uint64_t read_records = 0, kills = 0, random = seed;
    while (read_records < records) {
        end producer = {make(), 0, 0, draw(&random), 0, 1ull << 40}, consumer = producer;
        pid_t child = fork();
        if (!child) {
            produce(&producer);
            _exit(0);
        }
        await(&consumer, draw(&random) % (1 + records / 8));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        drain(&consumer);
        if (fr_load(consumer.ring.control, HEAD) != consumer.tail) fail("published, but not read", consumer.count);
        read_records += consumer.count;
        kills++;
        close(consumer.ring.doorbell);
        fr_unmap(consumer.ring.control, fr_page_bytes(), CAPACITY);
    }
    printf("%llu records, %llu kills\n", (unsigned long long)read_records, (unsigned long long)kills);
}
int main(int argc, char **argv) {
    if (argc != 4) return 2;
    uint64_t records = strtoull(argv[2], NULL, 10), seed = strtoull(argv[3], NULL, 10);
    (strcmp(argv[1], "threads") ? with_processes : with_threads)(records, seed);
    return 0;
}
