/* The client of `fairgate bench gateway`: a closed loop of requests, at as little CPU as C and epoll allow.
 *
 *     gateway_client PORT CONNECTIONS EVENTS REQUESTS
 *
 * REQUESTS holds what it sends, in turn: pieces of a 32-bit length (this machine's byte order) and as many bytes.
 * Every connection asks again as soon as it is answered. EVENTS: how many each answer must have; 0: it is not a stream.
 * For each line on its input it prints what happened since the one before: answers, events, and the median of the
 * microseconds from request to end of answer. It ends with its input, or at the first answer that is not as it should
 * be, with that on its error output and status 1. gateway_client.py is the same in Python.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_FILES = 4096, MOST_HEAD = 1 << 14, MOST_TIMES = 1 << 20, READ = 1 << 18, CHUNKED = -1, TAIL = 7 };

typedef struct {
    char head[MOST_HEAD + 1]; /* of the answer, and what of its body came with it */
    size_t size;
    int in_body, newline, events;
    long left;                /* of a body of known length, or CHUNKED */
    char tail[TAIL];          /* its last bytes so far */
    int64_t asked;
} Connection;

static Connection *connections[MOST_FILES];
static struct { char *bytes; uint32_t length; } *requests;
static int count_requests, next_request, expected, epoll;
static long answers, events;
static int32_t times[MOST_TIMES];

static void die(const char *what, const char *found, size_t size) {
    fprintf(stderr, "%s: %.*s\n", what, (int)size, found);
    exit(1);
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void load(const char *path) {
    FILE *file = fopen(path, "rb");
    uint32_t length;
    if (!file) die("cannot read", path, strlen(path));
    while (fread(&length, 4, 1, file) == 1) {
        requests = realloc(requests, (count_requests + 1) * sizeof *requests);
        requests[count_requests].bytes = malloc(length);
        requests[count_requests].length = length;
        if (fread(requests[count_requests++].bytes, 1, length, file) != length) die("cut short", path, strlen(path));
    }
    fclose(file);
}

static void ask(int fd) {
    Connection *c = connections[fd];
    int turn = next_request++ % count_requests;
    c->size = c->in_body = c->newline = c->events = 0;
    memset(c->tail, 0, TAIL);
    c->asked = now();
    if (send(fd, requests[turn].bytes, requests[turn].length, MSG_NOSIGNAL) != (ssize_t)requests[turn].length)
        die("the server did not take a request", "", 0);
}

/* Events end in two newlines, which may come in two reads. */
static int count_events(Connection *c, const char *data, size_t size) {
    int found = 0;
    const char *end = data + size, *here = data;
    if (c->newline && size && *data == '\n') found++, here++;
    while ((here = memchr(here, '\n', end - here)) && here + 1 < end) {
        if (here[1] == '\n') found++, here++;
        here++;
    }
    c->newline = size > 0 && here != NULL && here + 1 == end;
    return found;
}

static void keep_tail(Connection *c, const char *data, size_t size) {
    if (size >= TAIL) memcpy(c->tail, data + size - TAIL, TAIL);
    else {
        memmove(c->tail, c->tail + size, TAIL - size);
        memcpy(c->tail + TAIL - size, data, size);
    }
}

static void end(int fd) {
    Connection *c = connections[fd];
    if (c->events != expected) die("an answer lacks events, its first bytes are", c->head, c->size);
    times[answers++ % MOST_TIMES] = (now() - c->asked) / 1000;
    ask(fd);
}

static void body(int fd, const char *data, size_t size) {
    Connection *c = connections[fd];
    if (expected) {
        int found = count_events(c, data, size);
        c->events += found;
        events += found;
    }
    if (c->left == CHUNKED) {
        keep_tail(c, data, size);
        if (!memcmp(c->tail, "\r\n0\r\n\r\n", TAIL)) end(fd);
    } else if ((c->left -= size) <= 0) end(fd);
}

static void head(int fd, const char *data, size_t size) {
    Connection *c = connections[fd];
    size_t taken = size < MOST_HEAD - c->size ? size : MOST_HEAD - c->size;
    memcpy(c->head + c->size, data, taken);
    c->head[c->size += taken] = 0;
    char *over = strstr(c->head, "\r\n\r\n");
    if (!over && c->size < MOST_HEAD) return;
    char *length = strcasestr(c->head, "\r\ncontent-length:");
    int chunked = strcasestr(c->head, "\r\ntransfer-encoding: chunked") != NULL;
    if (!over || strncmp(c->head, "HTTP/1.1 200", 12) || (!chunked && !length))
        die("expected an answer with status 200 and a length or chunks, found", c->head, c->size);
    c->left = chunked ? CHUNKED : atol(length + 17);
    c->in_body = 1;
    size_t rest = c->size - (over + 4 - c->head);
    body(fd, data + taken - rest, rest + size - taken);
}

static void hear(int fd) {
    static char data[READ];
    ssize_t size = recv(fd, data, READ, 0);
    if (size <= 0) die("the server closed a connection before its answer was over", "", 0);
    (connections[fd]->in_body ? body : head)(fd, data, size);
}

static int by_size(const void *a, const void *b) { return *(const int32_t *)a - *(const int32_t *)b; }

static void tell(void) {
    int count = answers < MOST_TIMES ? answers : MOST_TIMES;
    qsort(times, count, sizeof *times, by_size);
    printf("%ld %ld %d\n", answers, events, count ? times[count / 2] : 0);
    fflush(stdout);
    answers = events = 0;
}

static void connect_to(int port) {
    struct sockaddr_in address = {AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}, {0}};
    int yes = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || fd >= MOST_FILES || connect(fd, (void *)&address, sizeof address)) die("cannot connect", "", 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    connections[fd] = calloc(1, sizeof(Connection));
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    ask(fd);
}

static void obey(void) {
    char line[64];
    ssize_t size = read(STDIN_FILENO, line, sizeof line);
    if (size <= 0) exit(0);
    tell();
}

int main(int count, char **arguments) {
    if (count != 5) return fputs("usage: gateway_client PORT CONNECTIONS EVENTS REQUESTS\n", stderr), 2;
    expected = atoi(arguments[3]);
    load(arguments[4]);
    epoll = epoll_create1(0);
    struct epoll_event on_input = {.events = EPOLLIN, .data.fd = STDIN_FILENO};
    epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &on_input);
    for (int i = 0; i < atoi(arguments[2]); i++) connect_to(atoi(arguments[1]));
    for (;;) {
        struct epoll_event ready[256];
        int many = epoll_wait(epoll, ready, 256, -1);
        for (int i = 0; i < many; i++) ready[i].data.fd == STDIN_FILENO ? obey() : hear(ready[i].data.fd);
    }
}
