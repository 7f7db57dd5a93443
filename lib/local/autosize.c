/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The automatic size: the smallest budget whose expected hit ratio reaches what is wished, and less while memory is
 * short.
 *
 *      curve.c ----> goal   what the target asks for, in steps -----.
 *                                                                    +--> size = least of the two, within the limits
 *      pressure.c -> cap    what memory pressure leaves ------------'
 *
 * The goal.  The curve tells every size's hit ratio from the same sample of the requests, whatever size the tier has.
 * So a change does not change what is measured, and there is no loop that could swing; what could is noise, and a load
 * that changes.  Against both:
 *   - no decision before SAMPLES_FIRST reads of the sample, none without SAMPLES_MORE new ones, and one in TARGET_NS at
 *     most;
 *   - it grows when the ratio expected is below the target, and shrinks to a size that is MARGIN above the target:
 *     between the two nothing happens;
 *   - it shrinks when SMALLER decisions in a row found less than SLACK of the size to be enough, to the largest of what
 *     they found, and by a quarter at most; so going down is slower than going up;
 *   - it grows to twice at most, and not before the tier is full: what is not used is no cure.
 * When no allowed size reaches the target, that is told (NEAR_AUTO_UNREACHABLE), and the tier grows as far as it may.
 *
 * The cap.  Short of memory is who comes near the limit of a control group, is throttled there, or waits for memory
 * (is_pressed).  Each look, a second apart, that finds so takes a quarter of what the tier has; where only a part of
 * the budget was used, the rest goes first, at once, because it would give nothing back.  After CALM_NS without
 * pressure the cap grows by a sixteenth each RECOVERY_NS until it is in nobody's way.  Nothing grows, for whatever
 * reason, by more than half of the room that is left below the line at which growth ends, an eighth before the limit;
 * pressure begins a sixteenth before it.
 *
 * By hand.  A size that somebody sets counts at once, is the new upper limit when no other is set, ends the cap, and
 * stays for HAND_NS unless memory is short; then deciding goes on from there.  The keeper changes the budget by a swap
 * from the size that it looked at, so that it never takes back what somebody has just set. */
#include "local/autosize.h"

#include "base/clamp.h"
#include "base/clock.h"

#define SAMPLES_FIRST 4096
#define SAMPLES_MORE 1024
#define TARGET_NS (10 * NEAR_NS_PER_S)
#define MARGIN 0.005
#define SLACK(size) ((size) - (size) / 8)
#define SMALLER 3
#define FULL(size) ((size) - (size) / 8)
#define CALM_NS (30 * NEAR_NS_PER_S)
#define RECOVERY_NS (10 * NEAR_NS_PER_S)
#define HAND_NS (30 * NEAR_NS_PER_S)
#define STALLED_PERMILLE 100

/* ---------------------------------------------------------------- wishes and news */

static uint64_t get(const _Atomic(uint64_t) *word)
{
    return atomic_load_explicit(word, memory_order_relaxed); /* relaxed: see autosize.h */
}
static void put(_Atomic(uint64_t) *word, uint64_t number)
{
    atomic_store_explicit(word, number, memory_order_relaxed); /* relaxed: see autosize.h */
}
static void count(_Atomic(uint64_t) *word)
{
    put(word, get(word) + 1); /* only the keeper writes */
}
static void tell(struct near__autosize *a, near_auto_reason reason)
{
    atomic_store_explicit(&a->reason, reason, memory_order_relaxed); /* relaxed: see autosize.h */
}

void near__autosize_init(struct near__autosize *a, uint64_t size)
{
    put(&a->by_hand, size);
}

int near__autosize_is_on(const struct near__autosize *a)
{
    return atomic_load_explicit(&a->hit_permille, memory_order_relaxed) != 0; /* relaxed: see autosize.h */
}

void near__autosize_set_by_hand(struct near__autosize *a, uint64_t size)
{
    put(&a->by_hand, size);
    /* release: pairs with take_over; whoever sees the number sees the size */
    atomic_fetch_add_explicit(&a->hands, 1, memory_order_release);
}

uint64_t near__autosize_by_hand(const struct near__autosize *a)
{
    return get(&a->by_hand);
}

void near__autosize_limits(const struct near__autosize *a, uint64_t fixed, uint64_t *ret_min, uint64_t *ret_max)
{
    uint64_t max = get(&a->bytes_max), min = get(&a->bytes_min);
    *ret_max = max ? max : near__autosize_by_hand(a);
    min = min > 2 * fixed ? min : 2 * fixed;
    *ret_min = min < *ret_max ? min : *ret_max;
}

void near__autosize_ratios(const struct near__autosize *a, double *ret_reaching, double *ret_ample)
{
    *ret_reaching = atomic_load_explicit(&a->hit_permille, memory_order_relaxed) / 1000.0; /* relaxed: see autosize.h */
    *ret_ample = *ret_reaching + MARGIN < 1 ? *ret_reaching + MARGIN : 1;
}

/* ---------------------------------------------------------------- memory pressure */

static int is_pressed(const struct near__pressure_level *p)
{
    if (p->stalled_permille >= STALLED_PERMILLE)
        return 1;
    if (p->limit == NEAR_PRESSURE_NO_LIMIT)
        return 0;
    /* A limit that is met while a fifth of it is free to be taken back is met by the page cache, not by us. */
    return p->used >= p->limit - p->limit / 16 || (p->throttled && p->used >= p->limit - p->limit / 5);
}

/* Bytes that may be taken in addition. */
static uint64_t room_of(const struct near__pressure_level *p)
{
    if (!p || p->limit == NEAR_PRESSURE_NO_LIMIT)
        return UINT64_MAX;
    uint64_t line = p->limit - p->limit / 8;
    return p->used < line ? (line - p->used) / 2 : 0;
}

static uint64_t grow_by(uint64_t size, uint64_t by, uint64_t room)
{
    by = by < room ? by : room;
    return size + by < size ? UINT64_MAX : size + by;
}

static void lower_cap(struct near__autosize *a, const struct near__auto_view *view, uint64_t min)
{
    uint64_t cap = view->size < view->used ? view->size : view->used;
    cap -= cap / 4;
    put(&a->cap, cap > min ? cap : min);
    count(&a->pressed);
    a->recovery_due_ns = view->now_ns + CALM_NS;
}

static void raise_cap(struct near__autosize *a, const struct near__auto_view *view, uint64_t max)
{
    uint64_t cap = get(&a->cap);
    if (!cap || view->now_ns < a->recovery_due_ns)
        return;
    cap = grow_by(cap, cap / 16 + 1, room_of(view->pressure));
    put(&a->cap, cap < max ? cap : 0);
    a->recovery_due_ns = view->now_ns + RECOVERY_NS;
}

/* ---------------------------------------------------------------- the target */

int near__autosize_wants_advice(const struct near__autosize *a, int64_t now_ns)
{
    return near__autosize_is_on(a) && now_ns >= a->target_due_ns;
}

/* Less would be enough; how much less is known after some times. */
static near_auto_reason shrink(struct near__autosize *a, uint64_t enough)
{
    a->least = a->smaller && a->least > enough ? a->least : enough;
    if (++a->smaller < SMALLER)
        return NEAR_AUTO_REACHED;
    uint64_t quarter = a->goal - a->goal / 4;
    a->goal = a->least > quarter ? a->least : quarter;
    a->smaller = 0;
    return NEAR_AUTO_SHRUNK;
}

static near_auto_reason grow(struct near__autosize *a, const struct near__auto_view *view, uint64_t wanted)
{
    a->smaller = 0;
    if (view->used < FULL(view->size) || view->size < a->goal)
        return NEAR_AUTO_NOT_FULL;
    uint64_t goal = grow_by(a->goal, a->goal, room_of(view->pressure));
    goal = goal < wanted ? goal : wanted;
    if (goal <= a->goal)
        return NEAR_AUTO_NO_ROOM;
    a->goal = goal;
    return NEAR_AUTO_GROWN;
}

static near_auto_reason aim(struct near__autosize *a, const struct near__auto_view *view, uint64_t max)
{
    const struct near__advice *advice = view->advice;
    uint64_t enough = advice->ample ? advice->ample : advice->reaching, wanted = enough ? enough : max;
    a->samples = advice->samples;
    put(&a->wanted, wanted);
    if (enough && enough < SLACK(a->goal))
        return shrink(a, enough);
    double reaching, ample;
    near__autosize_ratios(a, &reaching, &ample);
    if (advice->expected >= reaching) {
        a->smaller = 0;
        return NEAR_AUTO_REACHED;
    }
    if (wanted > a->goal)
        return grow(a, view, wanted);
    a->smaller = 0;
    return enough ? NEAR_AUTO_REACHED : NEAR_AUTO_UNREACHABLE; /* the first: pressure alone is in the way */
}

static near_auto_reason look_at_target(struct near__autosize *a, const struct near__auto_view *view, uint64_t max)
{
    if (!view->advice || view->now_ns < a->target_due_ns)
        return a->why;
    if (view->advice->expected >= 0)
        put(&a->expected_permille, (uint64_t)(view->advice->expected * 1000 + 0.5));
    if (view->advice->samples < SAMPLES_FIRST || view->advice->samples - a->samples < SAMPLES_MORE)
        return NEAR_AUTO_LEARNING;
    a->target_due_ns = view->now_ns + TARGET_NS;
    return aim(a, view, max);
}

/* ---------------------------------------------------------------- both */

/* The size was set by somebody else, or this is the beginning. */
static void take_over(struct near__autosize *a, const struct near__auto_view *view)
{
    /* acquire: pairs with near__autosize_set_by_hand */
    uint32_t hands = atomic_load_explicit(&a->hands, memory_order_acquire);
    if (a->goal && hands == a->hands_seen)
        return;
    a->why = NEAR_AUTO_LEARNING;
    if (hands != a->hands_seen) {
        a->target_due_ns = view->now_ns + HAND_NS;
        a->why = NEAR_AUTO_BY_HAND;
    }
    a->hands_seen = hands;
    a->goal = view->size;
    a->smaller = 0;
    put(&a->cap, 0);
}

/* Off: what there is stays. */
static uint64_t rest(struct near__autosize *a, uint64_t size)
{
    a->goal = 0;
    /* relaxed: whoever is off has nothing to hold */
    a->hands_seen = atomic_load_explicit(&a->hands, memory_order_relaxed);
    put(&a->cap, 0);
    put(&a->wanted, 0);
    put(&a->expected_permille, 0);
    tell(a, NEAR_AUTO_OFF);
    return size;
}

uint64_t near__autosize_decide(struct near__autosize *a, const struct near__auto_view *view)
{
    uint64_t min, max;
    if (!near__autosize_is_on(a))
        return rest(a, view->size);
    near__autosize_limits(a, view->fixed, &min, &max);
    take_over(a, view);
    int pressed = view->pressure && is_pressed(view->pressure);
    if (pressed)
        lower_cap(a, view, min);
    else
        raise_cap(a, view, max);
    a->why = look_at_target(a, view, max);
    if (a->why != NEAR_AUTO_BY_HAND)
        a->goal = near__clamp_unsigned(a->goal, min, max);
    uint64_t cap = get(&a->cap);
    if (cap && cap < a->goal) {
        tell(a, pressed ? NEAR_AUTO_PRESSED : NEAR_AUTO_RECOVERING);
        return cap;
    }
    tell(a, a->why);
    return a->goal;
}

void near__autosize_done(struct near__autosize *a, uint64_t before, uint64_t size)
{
    count(size > before ? &a->grown : &a->shrunk);
}
