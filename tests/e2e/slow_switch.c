/* tests/e2e/slow_switch.c - an Ethernet switch in user space that delays every frame and loses some, for kernels without netem.
 *
 *   slow_switch DELAY_US LOSS_PERMILLE SEED NAMESPACE=ADDRESS/BITS...
 *
 * Makes an interface wan0 with that address in each network namespace, prints "ready", and passes frames on to all others until SIGTERM; then prints
 * how many it passed on and lost.  All ports have the same delay, so frames leave in the order they came: a queue is enough. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { MOST_PORTS = 64, QUEUE = 1 << 15, FRAME = 2048 };

typedef struct frame {
    int64_t due_us;
    int from, bytes;
    unsigned char data[FRAME];
} frame;

static frame *queue;
static unsigned first, end; /* both count on; taken modulo QUEUE */
static struct pollfd ports[MOST_PORTS];
static int n_ports;
static long n_passed, n_lost;
static volatile sig_atomic_t ending;

static void on_term(int number)
{
    ending = number;
}

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void die(const char *what)
{
    fprintf(stderr, "slow_switch: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* A tap in that namespace, up and with that address. */
static int port_open(int home, const char *namespace, const char *address)
{
    char text[512];
    struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI, .ifr_name = "wan0"};
    snprintf(text, sizeof(text), "/var/run/netns/%s", namespace);
    int there = open(text, O_RDONLY | O_CLOEXEC);
    if (there < 0 || setns(there, CLONE_NEWNET) != 0)
        die(text);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &r) != 0)
        die("/dev/net/tun");
    snprintf(text, sizeof(text), "ip addr add %s dev wan0 && ip link set wan0 up", address);
    if (system(text) != 0 || setns(home, CLONE_NEWNET) != 0)
        die(text);
    close(there);
    return fd;
}

static void take(int port, int64_t delay_us, int loss_permille)
{
    while (end - first < QUEUE) {
        frame *f = &queue[end % QUEUE];
        ssize_t n = read(ports[port].fd, f->data, FRAME);
        if (n <= 0)
            return;
        if (rand() % 1000 < loss_permille) {
            n_lost++;
            continue;
        }
        f->bytes = (int)n;
        f->from = port;
        f->due_us = now_us() + delay_us;
        end++;
    }
}

static void pass_on(void)
{
    for (; first != end && queue[first % QUEUE].due_us <= now_us(); first++, n_passed++) {
        const frame *f = &queue[first % QUEUE];
        for (int i = 0; i < n_ports; i++)
            if (i != f->from && write(ports[i].fd, f->data, (size_t)f->bytes) < 0 && errno != EAGAIN)
                die("write");
    }
}

int main(int argc, char **argv)
{
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (argc < 6 || argc - 4 > MOST_PORTS || home < 0 || (queue = calloc(QUEUE, sizeof(*queue))) == NULL) {
        fprintf(stderr, "usage: slow_switch DELAY_US LOSS_PERMILLE SEED NAMESPACE=ADDRESS/BITS NAMESPACE=ADDRESS/BITS...\n");
        return 2;
    }
    int64_t delay_us = atoll(argv[1]);
    int loss = atoi(argv[2]);
    srand((unsigned)atoi(argv[3]));
    for (int i = 4; i < argc; i++) {
        char *address = strchr(argv[i], '=');
        if (address == NULL) {
            fprintf(stderr, "slow_switch: %s: NAMESPACE=ADDRESS/BITS\n", argv[i]);
            return 2;
        }
        *address++ = '\0';
        ports[n_ports++] = (struct pollfd){.fd = port_open(home, argv[i], address), .events = POLLIN};
    }
    sigset_t blocked, open_set;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_BLOCK, &blocked, &open_set);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_term}, NULL);
    puts("ready");
    fflush(stdout);
    while (!ending) {
        int64_t wait = first != end ? queue[first % QUEUE].due_us - now_us() : 1000000;
        wait = wait < 0 ? 0 : wait;
        const struct timespec t = {.tv_sec = wait / 1000000, .tv_nsec = wait % 1000000 * 1000};
        if (ppoll(ports, (nfds_t)n_ports, &t, &open_set) > 0)
            for (int i = 0; i < n_ports; i++)
                if (ports[i].revents & POLLIN)
                    take(i, delay_us, loss);
        pass_on();
    }
    printf("%ld passed on, %ld lost\n", n_passed, n_lost);
    return 0;
}
