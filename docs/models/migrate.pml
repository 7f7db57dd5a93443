/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The keeper's move of one entry from the old table to the new one (docs/design.md, growing and shrinking;
 * lib/local/migrate.c) against installs, an invalidation and a reader.  The key has one slot in the old table, two in the new one
 * (they may be in different places of it: nothing depends on that); every step is one load or one compare-and-swap. A view is taken at the beginning of an operation and kept
 * to its end; the keeper waits for those that hold the previous one.  What this has no room for, several slots in the old table too, entries
 * of other keys that are displaced, memory that is used again at once, tests/local/test_schedule.c has, with the real code.
 *
 *      view       installs go to     scans cover
 *      STEADY     old                old
 *      PREPARE    old                old, new
 *      MIGRATE    new                old, new         (the keeper moves)
 *      AFTER      new                new
 *      BACK       old                new, old         (outgrown: the keeper moves back, and STEADY follows)
 *
 * Checked: no read returns less than another that ended before it began, nor less than an invalidation processed
 * before it began; when all is done the old slot is empty for ever, nothing is tentative, at most one word of the
 * key is visible, none stale, and the other key is where it was.
 *
 * Situations (-DSITUATION=n):
 *   1  an entry there, a fill, a foreign write with its message, a reader, the keeper   4.5 M    5 s  0.3 GB
 *   2  no entry there, two fills, a foreign write without its message, a reader, the keeper    8.5 M   13 s  0.5 GB
 *   3  an entry there, another key of its tag in a new slot, a fill, a foreign write, a reader, the keeper   97 k    0 s
 *   4  as 1, and the keeper may turn back at any time   12.1 M    8 s  0.6 GB
 *   5  as 2 without the reader, likewise   1.1 M    1 s  0.2 GB
 *
 * Mutants (-DMUT=n), each must fail in the situation named by tests/models:
 *   1 a move empties the old slot before it publishes in the new table       2 a move publishes a visible word at once
 *   3 scans take the new table first          4 the keeper does not wait before it moves
 *   5 no PREPARE                              6 a move's last step is not a swap
 *   7 an install does not look for rivals in the old table
 *   8 the keeper does not wait before it moves back
 *
 *   spin -DSITUATION=1 -a migrate.pml && gcc -O2 -DSAFETY -DCOLLAPSE -DVECTORSZ=512 -o pan pan.c && ./pan -m100000
 */
#ifndef SITUATION
#define SITUATION 1
#endif
#ifndef MUT
#define MUT 0
#endif

#define STEADY 0
#define PREPARE 1
#define MIGRATE 2
#define AFTER 3
#define BACK 4
#define TURNS (SITUATION >= 4)

/* Words: version is the position; key 0 is the one that is checked, key 1 has the same tag. */
#define EMPTY 0
#define VISIBLE(k, v) (1 + (k) * 10 + (v))
#define TENTATIVE(owner) (100 + (owner))
#define KEEPER 9
#define is_tentative(w) ((w) >= 100)
#define is_visible(w) ((w) != EMPTY && (w) < 100)
#define KEY(w) (((w) - 1) / 10)
#define VERSION(w) (((w) - 1) % 10)
#define is_rival(w) (is_tentative(w) || (is_visible(w) && KEY(w) == 0))

#ifdef QUICK
#define READS 1
#else
#define READS 2
#endif
#define OLD 0
#define NEW 1
#define SLOTS 3
#define NOWHERE SLOTS
byte slot[SLOTS];       /* OLD, NEW, NEW + 1 */
byte view = STEADY;
byte inside[5];         /* operations that hold a view */
byte ceiling = 1;       /* floor[stripe], shared by both keys */
byte server = 1;        /* version and position */
byte applied, seen;
byte running;

#define scan_first(w) ((w) == AFTER -> NEW : OLD)
#define scan_end(w) ((w) == STEADY -> NEW : SLOTS)
#define is_old_target(w) ((w) < MIGRATE || (w) == BACK)
#define target_first(w) (is_old_target(w) -> OLD : NEW)
#define target_end(w) (is_old_target(w) -> NEW : SLOTS)
#if MUT == 3            /* new, new + 1, old */
#define at(n, w) (scan_first(w) == OLD && scan_end(w) == SLOTS -> ((n) + 1) % SLOTS : (n))
#else
#define at(n, w) ((w) == BACK -> ((n) + 1) % SLOTS : (n))
#endif

inline raise(p)
{
    atomic { if :: ceiling < (p) -> ceiling = (p) :: else fi }
}

inline enter(mine)
{
    atomic { mine = view; inside[mine]++ }
}

inline leave(mine)
{
    atomic { inside[mine]--; mine = 0 }
}

/* Takes out tentative words and older visible ones of key 0. */
inline sweep(p, mine)
{
    i = scan_first(mine); w = EMPTY;
    do
    :: i < scan_end(mine) && w == EMPTY ->
       atomic {
           w = slot[at(i, mine)];
           if
           :: w == EMPTY || (is_visible(w) && (KEY(w) != 0 || VERSION(w) >= (p))) -> w = EMPTY; i++
           :: else
           fi
       }
    :: i < scan_end(mine) && w != EMPTY ->
       atomic { if :: slot[at(i, mine)] == w -> slot[at(i, mine)] = EMPTY; i++ :: else fi; w = EMPTY }
    :: i >= scan_end(mine) -> break
    od;
    i = 0
}

proctype fill(byte me)
{
    byte i, w, r, before, mine, target, word, tries;
    bool found;

    atomic { before = seen; if :: before < applied -> before = applied :: else fi };
    r = server;
    enter(mine);
    raise(r);
step_2:
    atomic { i = target_first(mine); found = false };
    do
    :: i < target_end(mine) ->
       atomic {
           w = slot[i];
           if
           :: w != EMPTY && is_visible(w) && KEY(w) == 0 && VERSION(w) > r -> goto refused
           :: is_rival(w) && !(is_visible(w) && VERSION(w) > r) -> target = i; word = w; found = true; break
           :: w == EMPTY && !found -> target = i; word = w; found = true; i++
           :: else -> i++
           fi
       }
    :: else -> break
    od;
    atomic {
        w = EMPTY; i = 0;
        if
        :: slot[target] == word -> slot[target] = TENTATIVE(me)
        :: slot[target] != word && tries == 0 -> tries++; goto step_2
        :: else -> goto refused
        fi
    };
#if MUT == 7
    i = target_first(mine);
#else
    i = scan_first(mine);
#endif
    do
    :: i < scan_end(mine) && w == EMPTY ->
       atomic {
           w = slot[at(i, mine)];
           if
           :: !is_rival(w) || at(i, mine) == target -> w = EMPTY; i++
           :: is_rival(w) && at(i, mine) != target && is_visible(w) && VERSION(w) > r -> goto withdraw
           :: else
           fi
       }
    :: i < scan_end(mine) && w != EMPTY ->
       atomic { if :: slot[at(i, mine)] == w -> slot[at(i, mine)] = EMPTY; i++ :: else fi; w = EMPTY }
    :: i >= scan_end(mine) -> break
    od;
    if :: ceiling > r -> goto withdraw :: else fi;
    atomic {
        if
        :: slot[target] == TENTATIVE(me) -> slot[target] = VISIBLE(0, r); goto returned
        :: else -> goto refused
        fi
    };
withdraw:
    atomic { if :: slot[target] == TENTATIVE(me) -> slot[target] = EMPTY :: else fi };
refused:
    leave(mine);
    enter(mine);
    raise(r);
    sweep(r, mine);
returned:
    leave(mine);
    atomic {
        assert(r >= before);
        if :: seen < r -> seen = r :: else fi;
        i = 0; w = EMPTY; r = 0; before = 0; target = 0; word = EMPTY; tries = 0; found = false; me = 0;
        running--
    }
}

proctype writer(bool told)
{
    byte i, w, mine, p;

    atomic { server++; p = server };
    if
    :: told ->
       enter(mine);
       raise(p);
       sweep(p, mine);
       leave(mine);
       applied = p
    :: else
    fi;
    atomic { p = 0; told = false; running-- }
}

proctype reader(byte n)
{
    byte i, w, mine, before;

    do
    :: n > 0 ->
       atomic { before = seen; if :: before < applied -> before = applied :: else fi };
       enter(mine);
       i = scan_first(mine);
       do
       :: i < scan_end(mine) ->
          atomic {
              w = slot[at(i, mine)];
              if
              :: is_visible(w) && KEY(w) == 0 ->
                 assert(VERSION(w) >= before);
                 if :: seen < VERSION(w) -> seen = VERSION(w) :: else fi;
                 break
              :: else -> i++
              fi
          }
       :: else -> break
       od;
       leave(mine);
       atomic { w = EMPTY; before = 0; i = 0; n-- }
    :: else -> break
    od;
    running--
}

inline publish(next)
{
    atomic { i = view; view = next };
#if MUT == 4
    if :: next == MIGRATE :: next != MIGRATE && inside[i] == 0 fi
#elif MUT == 8
    if :: next == BACK :: next != BACK && inside[i] == 0 fi
#else
    inside[i] == 0
#endif
}

proctype keeper()
{
    byte i, w, target, n, from = OLD;   /* from OLD to the new slots; back, from those to OLD */

#if MUT != 5
    publish(PREPARE);
#endif
    publish(MIGRATE);
again:
#if TURNS
    if
    :: from == OLD -> from = NEW; publish(BACK)
    :: true
    fi;
#endif
    w = slot[from];
    if
    :: w == EMPTY -> goto moved
    :: is_tentative(w) -> atomic { if :: slot[from] == w -> slot[from] = EMPTY :: else fi }; goto again
    :: else
    fi;
#if MUT == 1
    atomic { if :: slot[from] == w -> slot[from] = EMPTY :: else goto again fi };
    atomic { if :: slot[NEW] == EMPTY -> slot[NEW] = w :: else fi };
    goto again;
#endif
    /* m1, m2 */
    target = NOWHERE; n = (from == OLD -> NEW : OLD);
    do
    :: n < (from == OLD -> SLOTS : NEW) ->
       atomic {
           if
           :: is_rival(slot[n]) -> goto drop
           :: slot[n] == EMPTY && target == NOWHERE -> target = n; n++
           :: else -> n++
           fi
       }
    :: else -> break
    od;
    if :: target == NOWHERE -> goto drop :: else fi;
    atomic {                                                    /* m3 */
        n = 0;
        if
#if MUT == 2
        :: slot[target] == EMPTY -> slot[target] = w
#else
        :: slot[target] == EMPTY -> slot[target] = TENTATIVE(KEEPER)
#endif
        :: else -> goto again
        fi
    };
    atomic {                                                    /* m4 */
        if
        :: slot[from] == w -> slot[from] = EMPTY
        :: else -> if :: slot[target] == TENTATIVE(KEEPER) -> slot[target] = EMPTY :: else fi; goto again
        fi
    };
    atomic {                                                    /* m5 */
#if MUT == 6
        slot[target] = w;
#else
        if :: slot[target] == TENTATIVE(KEEPER) -> slot[target] = w :: else fi;
#endif
        target = 0; w = EMPTY
    };
    goto again;
drop:
    atomic { if :: slot[from] == w -> slot[from] = EMPTY :: else fi; w = EMPTY; target = 0; n = 0 };
    goto again;
moved:
    if
    :: from == OLD -> publish(AFTER); assert(slot[OLD] == EMPTY)
    :: from == NEW -> from = NEW + 1; goto again
    :: else -> publish(STEADY); assert(slot[NEW] == EMPTY && slot[NEW + 1] == EMPTY)
    fi;
    atomic { from = 0; running-- }
}

init
{
    byte i, count;

    atomic {
#if SITUATION == 1 || SITUATION == 4
        slot[OLD] = VISIBLE(0, 1);
        running = 4; run fill(1); run writer(true); run reader(READS); run keeper()
#elif SITUATION == 2
#ifdef QUICK
        running = 4; run fill(1); run fill(2); run writer(false); run keeper()
#else
        running = 5; run fill(1); run fill(2); run writer(false); run reader(1); run keeper()
#endif
#elif SITUATION == 5
        running = 4; run fill(1); run fill(2); run writer(false); run keeper()
#elif SITUATION == 3
        slot[OLD] = VISIBLE(0, 1); slot[NEW] = VISIBLE(1, 1);
        running = 4; run fill(1); run writer(false); run reader(1); run keeper()
#endif
    };
    timeout -> assert(running == 0);
    atomic {
        assert(view == AFTER -> slot[OLD] == EMPTY : slot[NEW] == EMPTY && slot[NEW + 1] == EMPTY);
        i = 0;
        do
        :: i < SLOTS ->
           assert(!is_tentative(slot[i]));
           if
           :: slot[i] != EMPTY && KEY(slot[i]) == 0 ->
              count++;
#if SITUATION == 1 || SITUATION == 4
              assert(VERSION(slot[i]) == server)
#endif
           :: else
           fi;
           i++
        :: else -> break
        od;
#if SITUATION == 3
        assert(slot[NEW] == VISIBLE(1, 1));
#endif
        assert(count <= 1)
    }
}
