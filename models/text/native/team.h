/* A team of threads that run one function together and meet at barriers. */
#ifndef INGLE_TEAM_H
#define INGLE_TEAM_H

#include <stdatomic.h>
#include <stdint.h>

typedef struct team team;

/* What every member of a team runs; `me` counts from 0, and 0 is the thread that called `team_run`. */
typedef void (*team_work)(team *, void *context, int me);

/* A team of `size` threads, the caller among them; NULL where the system gives no threads. */
team *team_new(int size);

/* Ends the threads. Nobody may be running anything. */
void team_free(team *);

int team_size(const team *);

/* Runs `work` on every member, and returns when all are done. One caller at a time. */
void team_run(team *, team_work work, void *context);

/* Every member waits for all others. Starts the next round of `team_next`. */
void team_barrier(team *);

/* The next of the items that the members share out between two barriers, from 0 on. */
int64_t team_next(team *);

#endif
