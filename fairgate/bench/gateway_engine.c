/* The engine behind `fairgate bench gateway`: so cheap that it is not what is measured.
 *
 *     gateway_engine ANSWERS        listens on a free port of the loopback and prints it
 *
 * ANSWERS holds all bytes it may send, made by gateway_engine.py, which has the order and is this program in Python:
 * pieces of a 32-bit length (this machine's byte order) and as many bytes, the first of 4 bytes: the most tokens.
 * One thread, epoll, kept connections. Anything but POST is answered with 200 and nothing. A POST says in its body:
 * "stream" true or not, "max_tokens", "include_usage" and "continuous_usage_stats" as in OpenAI's and vLLM's bodies,
 * and "seed": milliseconds from token to token; 0: all at once, in as few writes as the socket takes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MOST_FILES = 4096, MOST_REQUEST = 1 << 16, MOST_PIECES = 256, NEVER = -1 };
enum { NOTHING, HEAD, FIRST }; /* pieces: of an empty answer, the head of a stream, and from here on those by tokens */

typedef struct {
    char got[MOST_REQUEST + 1];
    size_t size;
    int tokens, usage;        /* usage: 0 none, 1 in the end, 2 in every event */
    int whole;                /* the answer is one piece */
    int at, due, pieces;      /* written, to be written by now, and in all */
    size_t offset;            /* written of the piece at `at` */
    int64_t gap, next;        /* nanoseconds; when one more is due, or NEVER */
} Connection;

static Connection *connections[MOST_FILES];
static struct iovec *answers;
static int most, epoll, timer, largest;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* The file is one block: pieces point into it. */
static void load(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) die(path);
    long size = ftell(file);
    char *all = malloc(size);
    rewind(file);
    if (!all || fread(all, 1, size, file) != (size_t)size) die(path);
    fclose(file);
    memcpy(&most, all + 4, 4);
    int count = FIRST + 10 * (most + 1);
    answers = malloc(count * sizeof *answers);
    char *here = all + 8;
    for (int i = 0; i < count; i++) {
        uint32_t length;
        memcpy(&length, here, 4);
        answers[i] = (struct iovec){here + 4, length};
        here += 4 + length;
    }
}

/* Kinds of pieces, one for each number of tokens: 0 whole answers; then for each usage events, last events, ends. */
static struct iovec by_tokens(int kind, int tokens) { return answers[FIRST + kind * (most + 1) + tokens]; }

/* A stream: its head, the event of the role (0 tokens), an event for each token, the last one's own, the end. */
static struct iovec piece(Connection *c, int number) {
    if (!c->tokens) return answers[NOTHING];
    if (c->whole) return by_tokens(0, c->tokens);
    int kind = 1 + 3 * c->usage, token = number - 1;
    if (number == 0) return answers[HEAD];
    if (token < c->tokens) return by_tokens(kind, token);
    return by_tokens(kind + (token == c->tokens ? 1 : 2), c->tokens);
}

static void drop(int fd) {
    close(fd);
    free(connections[fd]);
    connections[fd] = NULL;
}

static void watch(int fd, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    epoll_ctl(epoll, operation, fd, &event);
}

/* Write what is due. What the socket does not take is written when epoll says so. */
static void push(int fd) {
    Connection *c = connections[fd];
    while (c->at < c->due) {
        struct iovec pieces[MOST_PIECES] = {piece(c, c->at)};
        int count = 1;
        pieces[0].iov_base = (char *)pieces[0].iov_base + c->offset;
        pieces[0].iov_len -= c->offset;
        for (; count < MOST_PIECES && c->at + count < c->due; count++) pieces[count] = piece(c, c->at + count);
        ssize_t sent = writev(fd, pieces, count);
        if (sent < 0) {
            watch(fd, EPOLL_CTL_MOD, EPOLLIN | (errno == EAGAIN ? EPOLLOUT : 0));
            return;
        }
        for (int i = 0; i < count && (size_t)sent >= pieces[i].iov_len; i++, c->at++, c->offset = 0)
            sent -= pieces[i].iov_len;
        c->offset += sent;
    }
    if (c->at == c->pieces) c->next = NEVER;
}

/* The value after "name": in the body, or NULL. */
static const char *value(const char *body, const char *name) {
    const char *found = strstr(body, name);
    if (!found) return NULL;
    found += strlen(name);
    return found + strspn(found, " :");
}

static int is_true(const char *body, const char *name) {
    const char *found = value(body, name);
    return found && !strncmp(found, "true", 4);
}

static int number(const char *body, const char *name) {
    const char *found = value(body, name);
    return found ? atoi(found) : 0;
}

static void answer(int fd, const char *body) {
    Connection *c = connections[fd];
    c->tokens = number(body, "\"max_tokens\"");
    if (*c->got == 'P' && (c->tokens < 1 || c->tokens > most)) {
        fprintf(stderr, "max_tokens %d; expected 1 to %d\n", c->tokens, most);
        exit(1);
    }
    c->usage = is_true(body, "\"continuous_usage_stats\"") ? 2 : is_true(body, "\"include_usage\"");
    c->whole = !is_true(body, "\"stream\"");
    c->gap = number(body, "\"seed\"") * 1000000LL;
    c->at = c->offset = 0;
    c->due = c->pieces = c->tokens && !c->whole ? c->tokens + 3 : 1;
    c->next = NEVER;
    if (c->pieces > 1 && c->gap) {
        c->due = c->tokens > 1 ? 3 : c->pieces;
        c->next = (now() / c->gap + 1) * c->gap; /* streams of one pace move together, as by an engine's steps */
    }
    push(fd);
}

static void hear(int fd) {
    Connection *c = connections[fd];
    ssize_t got = recv(fd, c->got + c->size, MOST_REQUEST - c->size, 0);
    if (got <= 0) {
        drop(fd);
        return;
    }
    c->got[c->size += got] = 0;
    char *body = strstr(c->got, "\r\n\r\n");
    if (!body) return;
    body += 4;
    const char *length = strcasestr(c->got, "\ncontent-length:");
    size_t size = length && length < body ? strtoul(length + 16, NULL, 10) : 0;
    if (c->size - (body - c->got) < size) return;
    answer(fd, body);
    c->size = 0;
}

static void greet(int listener) {
    int fd, yes = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MOST_FILES) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        connections[fd] = calloc(1, sizeof(Connection));
        connections[fd]->next = NEVER;
        if (fd > largest) largest = fd;
        watch(fd, EPOLL_CTL_ADD, EPOLLIN);
    }
}

/* Write the tokens that are due, and set the timer for the next. */
static void tick(void) {
    int64_t soonest = INT64_MAX, time = now();
    for (int fd = 0; fd <= largest; fd++) {
        Connection *c = connections[fd];
        if (!c || c->next == NEVER) continue;
        if (c->next <= time) {
            c->next += c->gap;
            c->due += c->due + 2 == c->pieces ? 2 : 1; /* the end comes with the last token */
            if (c->due >= c->pieces) c->due = c->pieces, c->next = NEVER;
            push(fd);
        }
        if (c->next != NEVER && c->next < soonest) soonest = c->next;
    }
    if (soonest == INT64_MAX) return;
    struct itimerspec when = {.it_value = {soonest / 1000000000, soonest % 1000000000}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static int listen_somewhere(void) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (void *)&address, size) || listen(listener, 4096)) die("listen");
    getsockname(listener, (void *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

int main(int count, char **arguments) {
    if (count != 2) return fputs("usage: gateway_engine ANSWERS\n", stderr), 2;
    signal(SIGPIPE, SIG_IGN);
    load(arguments[1]);
    epoll = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    int listener = listen_somewhere();
    watch(listener, EPOLL_CTL_ADD, EPOLLIN);
    watch(timer, EPOLL_CTL_ADD, EPOLLIN | EPOLLET);
    for (;;) {
        struct epoll_event events[256];
        int ready = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) greet(listener);
            else if (fd == timer || !connections[fd]) continue;
            else if (events[i].events & ~EPOLLOUT) hear(fd);
            else {
                watch(fd, EPOLL_CTL_MOD, EPOLLIN);
                push(fd);
            }
        }
        tick();
    }
}
