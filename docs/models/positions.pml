/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The position mechanism (docs/design.md, I1 to I5, install and invalidate) at the level of single loads and
 * compare-and-swaps.
 *
 * One process with a bucket of two slots and one stripe; a server that numbers its writes; a FIFO of messages.
 * Every step below is one access to one shared word, except the server's scripts (atomic there too) and the reply
 * of a write.  A value is its version. Memory is sequentially consistent here: the orders that the code needs on
 * weaker machines are argued where it is written.
 *
 * Checked: no read, local or remote, returns less than any read or write of the process that had returned before
 * it began (promise C), nor less than an invalidation that was processed before it began (D, R01-R08, R54); a
 * joined fetch neither (R17); at rest no tentative word, at most one visible word a key, and none stale.
 *
 * A fetch is `GET position, PTTL key, GET key, GET position`: three separate steps here.  Only when both positions
 * are equal is the value exact and may be kept; otherwise the second position is observed (two values of one
 * position must not exist).
 *
 * Situations (-DSITUATION=n), each exhaustive; states and time with `gcc -O2 -DSAFETY -DCOLLAPSE`, one core:
 *   1  two fills, a foreign write, a reader                                             2.8 M    3 s  0.25 GB
 *   2  a fill, a write of our own, an eviction, a reader                                6.4 M    7 s  0.4 GB
 *   3  a fill, a read that is not kept, two foreign writes, a reader                    12.2 M   13 s  0.6 GB
 *   4  two keys filled into a full bucket of their stripe, a write of either, a reader  3.3 M    3 s  0.3 GB
 *   5  a fill that others join, a write of our own, a foreign write, a joiner           14.3 M   18 s  0.8 GB
 *   6  a fill, a read whose position says nothing, a forgetful server, a reader          1.2 M    1 s  0.2 GB
 *   7  two fills, a foreign write whose message does not come, an eviction, a reader    2.0 M    2 s  0.2 GB
 *
 * Mutants (-DMUT=n), each must fail in the situation named by tests/models:
 *   1 floor not checked before becoming visible       2 no rescan for rivals          3 visible at once, withdrawn later
 *   4 floor raised after the removal                  5 invalidation overlooks tentative words
 *   6 install does not raise the floor (its ticket does not change, and eviction forgets it)
 *   7 a reply that is not kept is not observed        8 position read after the value
 *   9 no second position: an inexact value is kept   10 generation not checked
 *  11 a reply without a usable position is not observed
 *
 * Not needed, says the model: that an install compares itself with the entry there.  The floor alone refuses the
 * older one; the comparison only saves the newer entry from being displaced in vain.
 *
 *   spin -DSITUATION=1 -a positions.pml && gcc -O2 -DSAFETY -DCOLLAPSE -DVECTORSZ=512 -o pan pan.c && ./pan -m100000
 */
#ifndef SITUATION
#define SITUATION 1
#endif
#ifndef MUT
#define MUT 0
#endif

#ifdef QUICK
#define MORE 1
#else
#define MORE 2
#endif
#define SLOTS 2
#define KEYS 3
#define FILL 0
#define READ 1          /* returned, not kept */
#define WRITE 2
#define STRAY 3         /* returned by another server, or from before a loss of position: its position says nothing */

/* A word: empty, visible (key, position, version: each of the latter 0 to 4), tentative (key, owner). */
#define EMPTY 0
#define VISIBLE(k, p, v) (1 + (k) * 25 + (p) * 5 + (v))
#define TENTATIVE(k, owner) (128 + (k) * 32 + (owner))
#define is_visible(w) ((w) != EMPTY && (w) < 128)
#define is_tentative(w) ((w) >= 128)
#define POSITION(w) ((((w) - 1) % 25) / 5)
#define VERSION(w) (((w) - 1) % 5)
#define same_tag(w, k) \
    ((w) != EMPTY && (((w) < 128 && ((w) - 1) / 25 == (k)) || ((w) >= 128 && ((w) - 128) / 32 == (k))))

byte slot[SLOTS];
byte ceiling = 1;       /* floor[stripe]; "floor" in the design */
byte generation;
byte server_position = 1;
byte server_version[KEYS];
byte applied[KEYS];     /* highest version whose invalidation has been processed */
byte seen[KEYS];        /* highest version that any finished call has returned */
byte running;           /* clients, writers and evictors under way */
chan message = [3] of { byte, byte, byte };     /* key, position (0: unnumbered), version */

bool flight_open, flight_done;  /* the fetch that others may join */
byte flight_floor, flight_generation, flight_version;

inline raise(p)
{
    atomic { if :: ceiling < (p) -> ceiling = (p) :: else fi }
}

/* Removes what must go for a write of k at p; p 0: everything of k.  One load or one swap a step; a failed swap looks
 * again. */
inline sweep(k, p)
{
    i = 0; w = EMPTY;
    do
    :: i < SLOTS && w == EMPTY ->
       atomic {
           w = slot[i];
           if
           :: !same_tag(w, k) || (is_visible(w) && (p) != 0 && POSITION(w) >= (p)) -> w = EMPTY; i++
#if MUT == 5
           :: same_tag(w, k) && is_tentative(w) -> w = EMPTY; i++
#endif
           :: else
           fi
       }
    :: i < SLOTS && w != EMPTY -> atomic { if :: slot[i] == w -> slot[i] = EMPTY; i++ :: else fi; w = EMPTY }
    :: i == SLOTS -> break
    od
}

/* I3, I4 and I5 in one. */
inline invalidate(k, p)
{
#if MUT == 4
    sweep(k, p);
    if :: (p) != 0 -> raise(p) :: else -> generation++ fi
#else
    if :: (p) != 0 -> raise(p) :: else -> generation++ fi;
    sweep(k, p)
#endif
}

inline finished(k, v)
{
    atomic { if :: seen[k] < (v) -> seen[k] = (v) :: else fi }
}

proctype client(byte k; byte kind; byte me; bool leads)
{
    byte i, w, r, again, v, before, target, word, ticket, rank, tries;

    atomic { before = seen[k]; if :: before < applied[k] -> before = applied[k] :: else fi };
    ticket = generation;
    if
    :: leads -> flight_floor = ceiling; atomic { flight_generation = ticket; flight_open = true }
    :: else
    fi;

    if
    :: kind == WRITE ->
       atomic {
           server_position++; server_version[k]++;
           r = server_position; again = r; v = server_version[k];
           message!k, r, v
       }
    :: else ->
#if MUT == 8
       v = server_version[k];
       atomic { r = server_position; again = r }
#else
       r = server_position;
       v = server_version[k];
       again = server_position;
       if :: kind == STRAY -> atomic { r = 0; again = 0 } :: else fi
#endif
    fi;

    if
    :: kind == READ || kind == STRAY || r == 0 -> goto refused
#if MUT != 9
    :: kind != READ && r != again -> goto refused
#endif
    :: else
    fi;

#if MUT != 6
    raise(r);                                                   /* before step 2, as the code does */
#endif
step_2:                                                         /* steps 2 and 3 */
    i = 0; rank = 0;
    do
    :: i < SLOTS ->
       atomic {
           w = slot[i];
           if
           :: same_tag(w, k) && is_visible(w) && POSITION(w) > r -> goto refused
           :: same_tag(w, k) && !(is_visible(w) && POSITION(w) > r) -> target = i; word = w; rank = 3; break
           :: w == EMPTY && rank < 2 -> target = i; word = w; rank = 2; i++
           :: !same_tag(w, k) && is_visible(w) && rank < 1 -> target = i; word = w; rank = 1; i++
           :: else -> i++
           fi;
           w = EMPTY
       }
    :: else -> break
    od;
    atomic { i = 0; if :: rank == 0 -> goto refused :: else fi };
    atomic {                                                    /* step 4 */
        if
        :: slot[target] == word ->
#if MUT == 3
           slot[target] = VISIBLE(k, r, v)
#else
           slot[target] = TENTATIVE(k, me)
#endif
        :: slot[target] != word && tries == 0 -> tries++; goto step_2
        :: else -> goto refused
        fi
    };
#if MUT == 3
    atomic { if :: ceiling > r && slot[target] == VISIBLE(k, r, v) -> slot[target] = EMPTY :: else fi };
    goto returned;
#endif

#if MUT != 2
    i = 0; w = EMPTY;                                           /* step 5 */
    do
    :: i < SLOTS && w == EMPTY ->
       atomic {
           w = slot[i];
           if
           :: i == target || !same_tag(w, k) -> w = EMPTY; i++
           :: i != target && same_tag(w, k) && is_visible(w) && POSITION(w) > r -> goto withdraw
           :: else
           fi
       }
    :: i < SLOTS && w != EMPTY ->
       atomic { if :: slot[i] == w -> slot[i] = EMPTY; i++ :: else fi; w = EMPTY }
    :: i == SLOTS -> break
    od;
#endif

#if MUT != 1
    if :: ceiling > r -> goto withdraw :: else fi;              /* step 6 */
#endif
#if MUT != 10
    if :: generation != ticket -> goto withdraw :: else fi;
#endif
    atomic {                                                    /* step 7 */
        if
        :: slot[target] == TENTATIVE(k, me) -> slot[target] = VISIBLE(k, r, v); goto returned
        :: else -> goto refused
        fi
    };

withdraw:
    atomic { if :: slot[target] == TENTATIVE(k, me) -> slot[target] = EMPTY :: else fi };
refused:
#if MUT == 7
    skip;
#elif MUT == 11
    if :: again != 0 -> invalidate(k, again) :: else fi;
#else
    if                                                          /* I4; without a position I5 */
    :: r != 0 && again != 0 -> invalidate(k, again)
    :: else -> invalidate(k, 0)
    fi;
#endif
returned:
    assert(v >= before);
    atomic {
        finished(k, v);
        if :: leads -> flight_version = v; flight_open = false; flight_done = true :: else fi;
        i = 0; w = 0; r = 0; again = 0; v = 0; before = 0; target = 0; word = 0; ticket = 0; rank = 0; tries = 0;
        k = 0; kind = 0; me = 0; leads = false;
        running--
    }
}

/* A read that joins the running fetch if the key's ticket has not changed since it began. */
proctype joiner(byte k)
{
    byte before;

    before = seen[k];
    if
    :: flight_open && flight_floor == ceiling && flight_generation == generation ->
       flight_done;
       assert(flight_version >= before)
    :: else
    fi;
    atomic { before = 0; k = 0; running-- }
}

proctype reader(byte k; byte n)
{
    byte i, w, before;

    do
    :: n > 0 ->
       atomic { before = seen[k]; if :: before < applied[k] -> before = applied[k] :: else fi };
       i = 0;
       do
       :: i < SLOTS ->
          atomic {
              w = slot[i];
              if
              :: same_tag(w, k) && is_visible(w) -> assert(VERSION(w) >= before); finished(k, VERSION(w)); break
              :: else -> i++
              fi
          }
       :: else -> break
       od;
       atomic { w = EMPTY; i = 0; before = 0; n-- }
    :: else -> break
    od
}

proctype evictor()
{
    byte i, w;

    atomic { if :: i = 0 :: i = 1 fi; w = slot[i] };
    if
    :: is_visible(w) ->
       atomic { if :: slot[i] == w -> slot[i] = EMPTY :: else fi }
    :: else
    fi;
    atomic { i = 0; w = EMPTY; running-- }
}

proctype foreign(byte last; byte n)
{
    byte k;

    do
    :: n > 0 ->
       atomic {
           k = 0;
           do :: k < last -> k++ :: break od;
           server_position++; server_version[k]++;
           message!k, server_position, server_version[k];
           n--
       }
    :: else -> break
    od;
    running--
}

/* The server loses its position (evicted, flushed) and starts a new one at the next write; receivers see the gap and
 * apply that message by I5, as 0 says here. */
proctype forgetful(byte k)
{
    server_position = 0;
    atomic {
        server_position = 4; server_version[k]++;
        message!k, 0, server_version[k];
        running--
    }
}

proctype subscriber()
{
    byte i, w, k, p, v;

end:
    do
    :: atomic { message?k, p, v } ->
       invalidate(k, p);
       atomic { if :: applied[k] < v -> applied[k] = v :: else fi; k = 0; p = 0; v = 0; i = 0 }
    od
}

init
{
    byte i, k, count;

    atomic {
#if SITUATION == 1
        running = 3;
        run client(0, FILL, 1, false); run client(0, FILL, 2, false); run foreign(0, 1); run reader(0, 1)
#elif SITUATION == 2
        running = 3;
        run client(0, FILL, 1, false); run client(0, WRITE, 2, false); run evictor(); run reader(0, MORE)
#elif SITUATION == 3
        running = 3;
        run client(0, FILL, 1, false); run client(0, READ, 2, false); run foreign(0, MORE); run reader(0, MORE)
#elif SITUATION == 4
        running = 3;
        slot[0] = VISIBLE(2, 1, 0); slot[1] = VISIBLE(2, 1, 0);
        run client(0, FILL, 1, false); run client(1, FILL, 2, false); run foreign(1, 1);
#ifndef QUICK
        run reader(0, 1)
#else
        skip
#endif
#elif SITUATION == 5
        run client(0, FILL, 1, true); run client(0, WRITE, 2, false); run joiner(0);
#ifdef QUICK
        running = 3
#else
        running = 4;
        run foreign(0, 1)
#endif
#elif SITUATION == 6
        running = 3;
        run client(0, FILL, 1, false); run client(0, STRAY, 2, false); run forgetful(0); run reader(0, MORE)
#elif SITUATION == 7
        running = 4;
        slot[0] = VISIBLE(2, 1, 0);
        run client(0, FILL, 1, false); run client(0, FILL, 2, false); run foreign(0, 1); run evictor(); run reader(0, 1)
#endif
#if SITUATION != 7
        ;
        run subscriber()
#endif
    };
    timeout -> assert(running == 0);
#if SITUATION != 7
    assert(empty(message));
#endif
    atomic {
        k = 0;
        do
        :: k < KEYS - 1 ->
           i = 0; count = 0;
           do
           :: i < SLOTS ->
              assert(!is_tentative(slot[i]));
              if
              :: same_tag(slot[i], k) ->
                 count++;
#if SITUATION != 7
                 assert(VERSION(slot[i]) == server_version[k])
#endif
              :: else
              fi;
              i++
           :: else -> break
           od;
           assert(count <= 1);
           k++
        :: else -> break
        od
    }
}
