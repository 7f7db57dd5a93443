/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Values that travel with their messages (docs/coherence.md; lib/coherence/subscriber.c, keep_value; lib/local/install.c,
 * near__local_renew): one process, one key, a server that numbers its writes, a FIFO of messages and heartbeats.
 *
 * A message's value takes the place of an older copy at the message's own position, so that it is ordered with replies, with the
 * process's own writes and with other messages as any value is.  That is the echo fence: the message of our own write, or one that
 * was published before it, finds its own position or a higher one there and changes nothing.  An install (floor, rivals,
 * visibility) is one step here: positions.pml has its single loads and swaps.  The look for an older copy, the ticket, the raising of
 * the floor and the install are separate.
 *
 * Checked: no read returns less than a finished read or write had shown, or an applied message told, before it began (C, D); no
 * hit on a value whose time in the server is over (G, R20: its life counts from the last heartbeat that was heard before the
 * message); at rest nothing but the server's version is there.
 *
 * Situations (-DSITUATION=n), each exhaustive; a reader looks twice, QUICK once (and in 3):
 *   1  a write of our own, a foreign write, with or without a value, a fill, a reader          1.1 M states, QUICK 0.6 M
 *   2  two writes of our own, a foreign write, an eviction, a reader                           0.4 M         0.2 M
 *   3  a foreign write, and time: values live for two ticks, heartbeats are late; a reader     0.3 M
 *   4  a foreign write; the server forgets its position and a last one has a low one; a reader
 *
 * Mutants (-DMUT=n), each must fail in the situation named by tests/models:
 *   1 a value is taken for newer than it is (VALUE_NEWER)     2 it is kept wherever there is a copy, however new (no echo fence)
 *   3 its life counts from its arrival (VALUE_FROM_ARRIVAL)   4 a message behind a break of the order is ordered by its number
 *   5 a value that is not kept does not remove the older copy either
 *
 *   spin -DSITUATION=1 -a values.pml && gcc -O2 -DSAFETY -DCOLLAPSE -DVECTORSZ=512 -o pan pan.c && ./pan -m100000
 */
#ifndef SITUATION
#define SITUATION 1
#endif
#ifndef MUT
#define MUT 0
#endif

#define LIFE 2
#define NEVER 99
#if SITUATION == 3
#define TIMED 1
#else
#define TIMED 0
#endif
#define FOREIGN 1
#if defined(QUICK) || SITUATION == 3
#define READS 1
#else
#define READS 2
#endif
#define FORGOTTEN 1     /* the position from which a server that has forgotten goes on */

mtype = { VALUE, PLAIN, HEARTBEAT };

byte entry_position, entry_version, entry_end;  /* position 0: there is no copy */
byte ceiling = 1;       /* the stripe's floor */
byte generation;
byte server_position = 2, server_version;
byte written[6];        /* when each version was */
byte now;
byte applied, seen;     /* versions */
byte running;
chan message = [5] of { mtype, byte, byte };    /* kind, position (HEARTBEAT: when it was sent), version */


inline lives(since, life)
{
#if TIMED
    until = since + life
#else
    until = NEVER
#endif
}

inline learn(p)         /* I3 and I5 */
{
    atomic { if :: (p) == 0 -> generation++ :: else -> if :: ceiling < (p) -> ceiling = (p) :: else fi fi };
    atomic {
        if
        :: entry_position != 0 && ((p) == 0 || entry_position < (p)) -> entry_position = 0; entry_version = 0; entry_end = 0
        :: else
        fi
    }
}

/* A reply's or a message's value, alive until `until`: kept, or learnt from. */
inline install(p, v, ticket, fenced)
{
    atomic { if :: fenced && ceiling < (p) -> ceiling = (p) :: else fi };
    atomic {
        if
        :: !(fenced) || (ceiling <= (p) && generation == ticket && entry_position <= (p)) ->
           entry_position = p; entry_version = v; entry_end = until; kept = true
        :: else -> kept = false
        fi
    };
    if :: !kept -> learn(p) :: else fi
}

inline returned(v)
{
    assert(v >= before);
    atomic { if :: seen < v -> seen = v :: else fi }
}

inline begin()
{
    atomic { before = (seen > applied -> seen : applied); ticket = generation; sent = now }
}

inline write(kind)
{
    server_position++; server_version++; written[server_version] = now;
    r = server_position; v = server_version;
    message!kind, r, v
}

proctype own_write(byte n)
{
    byte r, v, before, ticket, sent, until;
    bool kept;

    do
    :: n > 0 ->
       begin();
       atomic { if :: write(VALUE) :: write(PLAIN) fi };
       lives(sent, LIFE);
       install(r, v, ticket, true);
       returned(v);
       atomic { n--; r = 0; v = 0; before = 0; ticket = 0; sent = 0; until = 0; kept = false }
    :: else -> break
    od;
    running--
}

proctype fill()
{
    byte r, v, before, ticket, sent, left, until;
    bool kept;

    begin();
    atomic {            /* exact: position and value of one moment; what is over in the server is not there */
        r = server_position; v = server_version;
        left = 0;
        if :: written[v] + LIFE > now -> left = written[v] + LIFE - now :: else fi
    };
    if
    :: TIMED && left == 0 -> learn(r)
    :: else -> lives(sent, left); install(r, v, ticket, true); returned(v)
    fi;
    atomic { r = 0; v = 0; before = 0; ticket = 0; sent = 0; left = 0; until = 0; kept = false; running-- }
}

proctype foreign(byte n)
{
    byte r, v;

    do
    :: n > 0 -> atomic { if :: write(VALUE) :: write(PLAIN) fi; n-- }
    :: else -> break
    od;
#if SITUATION == 4
    atomic { server_position = FORGOTTEN; if :: write(VALUE) :: write(PLAIN) fi };
#endif
    atomic { r = 0; v = 0; running-- }
}

proctype reader(byte n)
{
    byte before, v;

    do
    :: n > 0 ->
       atomic { before = (seen > applied -> seen : applied) };
       atomic {
           v = entry_version;
           if
           :: entry_position != 0 && now < entry_end ->
              assert(!TIMED || now < written[v] + LIFE);
              returned(v)
           :: else
           fi;
           v = 0; before = 0; n--
       }
    :: else -> break
    od
}

proctype evictor()
{
    atomic { entry_position = 0; entry_version = 0; entry_end = 0; running-- }
}

proctype heart()
{
    byte n = 2, sent;

    do
    :: n > 0 -> sent = now; atomic { message!HEARTBEAT, sent, 0; n-- }
    :: else -> break
    od;
    atomic { sent = 0; running-- }
}

proctype clock()
{
    do :: now < 3 -> now++ :: else -> break od;
    running--
}

proctype subscriber()
{
    byte p, v, ticket, last, heard = NEVER, position, until;
    bool renews, kept, anchored = true;
    mtype kind;

    last = 2;
#if !TIMED
    heard = 0;
#endif
end:
    do
    :: message?kind, p, v ->
       if
       :: kind == HEARTBEAT -> heard = p
       :: else ->
#if MUT != 4
          if :: p != last + 1 -> anchored = false :: else fi;
#endif
          last = p;
          position = (anchored -> p : 0);
          renews = false;
          kept = false;
          if
          :: kind == VALUE && position != 0 && heard != NEVER ->
             ticket = generation;                                   /* before the look at what is there */
#if MUT == 1
             position = position + 1;
#endif
#if MUT == 2
             renews = (entry_position != 0);
#else
             renews = (entry_position != 0 && entry_position < position);
#endif
          :: else
          fi;
          if
          :: renews ->
#if MUT == 3
             lives(now, LIFE);
#else
             lives(heard, LIFE);
#endif
#if MUT == 2
             install(position, v, ticket, false);
#else
             install(position, v, ticket, true);
#endif
          :: else ->
#if MUT == 5
             if :: kind == PLAIN -> learn(position) :: else fi
#else
             learn(position)
#endif
          fi;
          atomic { if :: applied < v -> applied = v :: else fi }
       fi;
       atomic { p = 0; v = 0; ticket = 0; position = 0; until = 0; renews = false; kept = false; kind = PLAIN }
    od
}

init
{
    byte until;
    atomic {
        entry_position = 2;     /* there is a copy to be renewed */
        lives(0, LIFE); entry_end = until;
#if SITUATION == 1
        running = 3;
        run own_write(1); run foreign(FOREIGN); run fill(); run reader(READS)
#elif SITUATION == 2
        running = 3;
        run own_write(2); run foreign(FOREIGN); run evictor(); run reader(READS)
#elif SITUATION == 3
        running = 3;
        run foreign(FOREIGN); run heart(); run clock(); run reader(READS)
#else
        running = 1;
        run foreign(FOREIGN); run reader(READS)
#endif
        ;
        run subscriber()
    };
    timeout -> assert(running == 0 && empty(message));
    assert(entry_position == 0 || now >= entry_end || entry_version == server_version)
}
