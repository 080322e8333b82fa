/* Between two runs a member spins for some microseconds and then sleeps in the kernel, because the event loop and the
 * clients live on the same cores. Within a run it spins, and yields its core when the others let it wait for long: to the
 * event loop, that is. Where threads of lower rank want the core too, they get it for milliseconds; once that was seen,
 * members sleep instead for a while, because who is woken takes the core back from them at once.
 */
#define _GNU_SOURCE
#include "team.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPINS_BEFORE_SLEEP = 300, SPINS_BEFORE_YIELD = 1000 };
/* Cycles of the time stamp counter: a tenth of a millisecond, which is longer than an item takes that members share, and
 * more than what the event loop does at a time.
 */
enum { CYCLES_BEFORE_REST = 250000, CYCLES_OF_A_HOG = 4000000 };
/* Waits that pass without yielding after one that took so long: those of some ten steps. */
enum { WARY_WAITS = 2000 };

struct team {
  int size;
  pthread_t *threads;
  team_work work;
  void *context;
  _Alignas(64) atomic_uint run;      /* counts runs; members wait for it to change */
  _Alignas(64) atomic_uint sleepers; /* members that sleep in the kernel until it does */
  _Alignas(64) atomic_int arrived;
  _Alignas(64) atomic_uint round;
  _Alignas(64) atomic_uint resting; /* members that sleep in the kernel until the round is over */
  _Alignas(64) atomic_llong next;
  _Alignas(64) atomic_int named;
  atomic_int wary; /* waits that pass without yielding */
  atomic_int closing;
};

static void wait_for_run(team *t, unsigned seen) {
  for (int spin = 0; spin < SPINS_BEFORE_SLEEP; spin++) {
    if (atomic_load_explicit(&t->run, memory_order_acquire) != seen) return;
    _mm_pause();
  }
  atomic_fetch_add(&t->sleepers, 1);
  while (atomic_load(&t->run) == seen) syscall(SYS_futex, &t->run, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
  atomic_fetch_sub(&t->sleepers, 1);
}

static void *member(void *argument) {
  team *t = argument;
  int me = atomic_fetch_add(&t->named, 1);
  unsigned seen = 0;
  for (;;) {
    wait_for_run(t, seen);
    seen = atomic_load_explicit(&t->run, memory_order_acquire);
    if (atomic_load(&t->closing)) return NULL;
    t->work(t, t->context, me);
    team_barrier(t);
  }
}

static void begin_run(team *t) {
  atomic_fetch_add(&t->run, 1);
  if (atomic_load(&t->sleepers)) syscall(SYS_futex, &t->run, FUTEX_WAKE_PRIVATE, t->size, NULL, NULL, 0);
}

team *team_new(int size) {
  team *t = aligned_alloc(64, (sizeof(team) + 63) / 64 * 64);
  if (t == NULL) return NULL;
  *t = (team){.size = 1};
  atomic_init(&t->named, 1);
  t->threads = calloc((size_t)size, sizeof(pthread_t));
  while (t->threads != NULL && t->size < size && pthread_create(&t->threads[t->size], NULL, member, t) == 0) t->size++;
  if (t->size == size) return t;
  team_free(t);
  return NULL;
}

void team_free(team *t) {
  atomic_store(&t->closing, 1);
  begin_run(t);
  for (int i = 1; i < t->size; i++) pthread_join(t->threads[i], NULL);
  free(t->threads);
  free(t);
}

int team_size(const team *t) { return t->size; }

void team_run(team *t, team_work work, void *context) {
  t->work = work;
  t->context = context;
  begin_run(t);
  work(t, context, 0);
  team_barrier(t);
}

static int is_over(team *t, unsigned round) { return atomic_load_explicit(&t->round, memory_order_acquire) != round; }

static void rest(team *t, unsigned round) {
  for (unsigned long long began = __rdtsc(); __rdtsc() - began < CYCLES_BEFORE_REST; _mm_pause())
    if (is_over(t, round)) return;
  atomic_fetch_add(&t->resting, 1);
  while (atomic_load(&t->round) == round) syscall(SYS_futex, &t->round, FUTEX_WAIT_PRIVATE, round, NULL, NULL, 0);
  atomic_fetch_sub(&t->resting, 1);
}

static void wait_for_round(team *t, unsigned round) {
  for (int spin = 0; spin < SPINS_BEFORE_YIELD; spin++, _mm_pause())
    if (is_over(t, round)) return;
  if (atomic_load_explicit(&t->wary, memory_order_relaxed) > 0) {
    atomic_fetch_sub_explicit(&t->wary, 1, memory_order_relaxed);
    rest(t, round);
    return;
  }
  while (!is_over(t, round)) {
    unsigned long long began = __rdtsc();
    sched_yield();
    if (__rdtsc() - began > CYCLES_OF_A_HOG) atomic_store_explicit(&t->wary, WARY_WAITS, memory_order_relaxed);
  }
}

void team_barrier(team *t) {
  unsigned round = atomic_load_explicit(&t->round, memory_order_relaxed);
  if (atomic_fetch_add_explicit(&t->arrived, 1, memory_order_acq_rel) < t->size - 1) {
    wait_for_round(t, round);
    return;
  }
  atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
  atomic_store_explicit(&t->next, 0, memory_order_relaxed);
  /* In this order, as who rests counts itself before it looks: nobody is left asleep. */
  atomic_store(&t->round, round + 1);
  if (atomic_load(&t->resting)) syscall(SYS_futex, &t->round, FUTEX_WAKE_PRIVATE, t->size, NULL, NULL, 0);
}

int64_t team_next(team *t) { return atomic_fetch_add_explicit(&t->next, 1, memory_order_relaxed); }
