/*
 * What libpq makes of connection strings, environments, service files and password files.
 *
 * Reads requests from stdin and answers each on stdout. All numbers are 32-bit, in the machine's byte order; a text is
 * its length and its bytes. A request: the kind (1), the number of variables, "NAME=VALUE" for each, the connection
 * string. The environment of the request is all there is.
 *
 *   'D'  what PQconndefaults gives (NULL without an answer): the error's text (empty: none), then the options
 *   'P'  what PQconninfoParse gives: the error's text (empty: none), then the options
 *   'C'  how PQconnectdb would connect, without doing so: the error's text, then the options, then for each place that
 *        it would try, in order: host, address, port, password
 *   'R'  PQconnectdb: the error's text, and no options
 *
 * Options: their number, then keyword, variable (empty: none), whether there is a value, value.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <libpq-fe.h>
#include <netdb.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Connections: made, or refused so many times and then left hanging. */
static int is_real = 1;
static int n_refused;
static int n_connects;

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    if (is_real) {
        int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
        return real(fd, address, length);
    }
    errno = n_connects++ < n_refused ? ECONNREFUSED : EINPROGRESS;
    return -1;
}

/* Every name has one address: its own if it is one. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
    int is_name = hints == NULL || (hints->ai_flags & AI_NUMERICHOST) == 0;
    struct addrinfo numeric = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM};

    if (is_real || !is_name)
        return real(node, service, hints, found);
    if (real(node, service, &numeric, found) == 0)
        return 0;
    return real("127.0.0.1", service, &numeric, found);
}

static void fail(const char *what)
{
    fprintf(stderr, "probe: %s\n", what);
    exit(1);
}

static uint32_t read_number(void)
{
    uint32_t number;
    if (fread(&number, sizeof number, 1, stdin) != 1)
        fail("a request ends early");
    return number;
}

static char *read_text(void)
{
    uint32_t length = read_number();
    char *text = malloc((size_t)length + 1);
    if (text == NULL || fread(text, 1, length, stdin) != length)
        fail("a request ends early");
    text[length] = '\0';
    return text;
}

static void write_number(uint32_t number)
{
    fwrite(&number, sizeof number, 1, stdout);
}

static void write_text(const char *text)
{
    uint32_t length = text == NULL ? 0 : (uint32_t)strlen(text);
    write_number(length);
    fwrite(text == NULL ? "" : text, 1, length, stdout);
}

static void write_options(PQconninfoOption *options)
{
    uint32_t n_options = 0;
    for (PQconninfoOption *option = options; option != NULL && option->keyword != NULL; option++)
        n_options++;
    write_number(n_options);
    for (PQconninfoOption *option = options; option != NULL && option->keyword != NULL; option++) {
        write_text(option->keyword);
        write_text(option->envvar);
        write_number(option->val != NULL);
        write_text(option->val);
    }
    PQconninfoFree(options);
}

static PGconn *dial(const char *text, int n_to_refuse)
{
    is_real = 0;
    n_refused = n_to_refuse;
    n_connects = 0;
    PGconn *conn = PQconnectdb(text);
    is_real = 1;
    return conn;
}

int main(void)
{
    int kind;

    signal(SIGPIPE, SIG_IGN);
    while ((kind = getchar()) != EOF) {
        uint32_t n_variables = read_number();
        char **variables = calloc((size_t)n_variables + 1, sizeof *variables);
        char *text;
        char *error = NULL;

        clearenv();
        for (uint32_t i = 0; i < n_variables; i++) {
            variables[i] = read_text();
            putenv(variables[i]);
        }
        text = read_text();
        if (kind == 'D') {
            PQconninfoOption *options = PQconndefaults();
            write_text(options == NULL ? "no defaults" : "");
            write_options(options);
        } else if (kind == 'P') {
            PQconninfoOption *options = PQconninfoParse(text, &error);
            write_text(error);
            write_options(options);
            PQfreemem(error);
        } else if (kind == 'C') {
                /* Left hanging at the first place. */
            PGconn *conn = dial(text, 0);
            int n_places = 0;
            write_text(PQerrorMessage(conn));
            write_options(PQconninfo(conn));
            if (n_connects > 0) {
                PGconn *all = dial(text, 1 << 20);
                n_places = n_connects;
                PQfinish(all);
            }
            write_number(n_places);
            for (int place = 0; place < n_places; place++) {
                PGconn *one = place == 0 ? conn : dial(text, place);
                write_text(PQhost(one));
                write_text(PQhostaddr(one));
                write_text(PQport(one));
                write_text(PQpass(one));
                if (place > 0)
                    PQfinish(one);
            }
            PQfinish(conn);
        } else if (kind == 'R') {
            PGconn *conn = PQconnectdb(text);
            write_text(PQerrorMessage(conn));
            write_number(0);
            PQfinish(conn);
        } else {
            fail("no such request");
        }
        fflush(stdout);
        free(text);
        clearenv();
        for (uint32_t i = 0; i < n_variables; i++)
            free(variables[i]);
        free(variables);
    }
    return 0;
}
