/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Losing and regaining the proof of freshness (docs/design.md, section 2; lib/coherence): one process, one key,
 * one server.
 *
 * The local tier is one entry and one floor, and installs and invalidations are single steps here: positions.pml
 * shows why they may be. What is looked at is everything around them: messages that vanish with their subscription
 * or alone, a server that restarts with an older snapshot, is flushed, or is lifted by another process; replies
 * that arrive after any of that; proofs under way during it. A value is its version, from one count that never
 * goes back; a restart makes some versions `lost`, a flush is a new version without a message.
 *
 * Checked: a hit granted by a proof returns a version that was current at or after the sending of that proof
 * (promise B, G3; time itself is not modelled: a proof that is never too old is the worst case), in the order of
 * looks of R47; at rest, when faults have ceased, the process is proven again and serves nothing but the server's
 * version (G4); versions do not go back unless the server's did (G1).
 *
 * Situations (-DSITUATION=n):
 *   1  a fill and a foreign write across a lost subscription                            0.47 M   1 s
 *   2  a fill, two foreign writes, of which one message vanishes without a trace        0.98 M   3 s
 *   3  a write of our own, a foreign write, a restart of the server from an older snapshot          2.5 M    6 s
 *   4  a fill, a foreign write, a flush of the server, position included                0.70 M   2 s
 *   5  a fill, a foreign write, another process lifts the position                      0.51 M   1 s
 *   6  a write of our own, a lost subscription, a restart from the snapshot             1.7 M    5 s
 *
 * Mutants (-DMUT=n), each must fail in the situation named by tests/models:
 *   1 everything is dropped at the disconnection only, and nothing made suspect afterwards (R22)
 *   2 another identity of the server is not noticed          3 the proof counts from its receipt
 *   4 holes in the numbers are ignored                       5 no lift above what was seen
 *   6 replies of another history are believed                7 the last position is forgotten with the subscription
 *   8 a hit looks at the entry before the proof (R47)
 *   9 a reply looks at the incarnation before it raises the highest position seen, and not after
 *
 * Not needed, says the model: that a hit looks at the watermark after the entry (after the proof is enough), and
 * that half a proof is forgotten with its subscription as long as the last position is not (the next heartbeat
 * reveals what was missed).
 *
 *   spin -DSITUATION=1 -a reconnect.pml && gcc -O2 -DSAFETY -DCOLLAPSE -DVECTORSZ=512 -o pan pan.c && ./pan -m100000
 */
#ifndef SITUATION
#define SITUATION 1
#endif
#ifndef MUT
#define MUT 0
#endif
#if SITUATION == 1
#define FOREIGN 1
#define OWN false
#define LOSSES 1
#elif SITUATION == 2
#define FOREIGN 2
#define OWN false
#define DROPS 1
#elif SITUATION == 3
#define FOREIGN 1
#define OWN true
#define RESTARTS 1
#elif SITUATION == 4
#define FOREIGN 1
#define OWN false
#define FLUSHES 1
#elif SITUATION == 5
#define FOREIGN 1
#define OWN false
#define LIFTS 1
#elif SITUATION == 6
#define FOREIGN 0
#define OWN true
#define LOSSES 1
#define RESTARTS 1
#endif
#ifndef LOSSES
#define LOSSES 0
#endif
#ifndef DROPS
#define DROPS 0
#endif
#ifndef RESTARTS
#define RESTARTS 0
#endif
#ifndef FLUSHES
#define FLUSHES 0
#endif
#ifndef LIFTS
#define LIFTS 0
#endif

/* suspicion */
#define START 1
#define LOST 2
#define GAP 4
#define ORDER 8
#define SERVER 16
#define HISTORY (GAP | ORDER | SERVER)
#define BREAK (ORDER | SERVER)

/* attempts without a reason, before the world is at rest */
#if RESTARTS || defined(QUICK)
#define IDLE_PROOFS 1
#else
#define IDLE_PROOFS 2
#endif
/* A lift goes so far beyond what is known: replies that nobody has seen yet are below (2^20 in truth). */
#define MARGIN 5

/* what comes on the subscription */
mtype = { WRITTEN, PROOF, PONG };

/* ---- the server */
byte position = 1, version = 1;
byte versions = 1;              /* the last version given out */
byte identity = 1;
byte lost_from = 255, lost_to;  /* versions that a restart has undone: lost_from < v <= lost_to */
bool connected;                 /* a subscription exists on the server's side */
chan wire = [6] of { mtype, byte, byte };       /* WRITTEN position, 0; PROOF nonce, position; PONG nonce, 0 */
byte drops = DROPS;

/* ---- the process */
byte entry_version, entry_position;     /* version 0: none */
byte ceiling;                           /* floor */
byte generation;
byte watermark;
bool proven;
byte claim;                             /* what was current when the proof was sent */
bool claim_after_loss;                  /* sent after the restart */
byte highest = 0, incarnation = 0, server_id = 0;
byte last, suspicion = START, lift_to;
bool anchored, channel;
byte nonce, nonces, known, proof_position, sent_version;
bool sent_after_loss, pong, arrived;
bool ping_pending, heartbeat_pending;
byte heartbeat_nonce, heartbeat_known;
byte seen;                              /* highest version returned, for G1 */
byte running;
bool quiet, sent_quiet, settled;

#define was_lost(v) ((v) > lost_from && (v) <= lost_to)

inline publish(kind, a, b)
{
    if
    :: connected && kind == WRITTEN && drops > 0 -> drops--
    :: connected -> wire!kind, a, b
    :: !connected
    fi
}

/* position 0: lost; the server's time then gives a number above all, unless its clock is behind: that is what lifts are
 * for */
inline number()
{
    if :: position == 0 -> position = 20 :: else -> position++ fi
}

inline invalidate(p)
{
    if
    :: (p) != 0 ->
       if :: ceiling < (p) -> ceiling = (p) :: else fi;
       if :: entry_position < (p) -> entry_version = 0; entry_position = 0 :: else fi
    :: else -> generation++; entry_version = 0; entry_position = 0
    fi
}

inline suspect(why)
{
    suspicion = suspicion | (why);
    if
    :: ((why) & HISTORY) ->
       incarnation++;
#if MUT != 5
       if :: ((why) & BREAK) -> lift_to = highest + 1 :: else fi
#else
       skip
#endif
    :: else
    fi;
    proven = false;
    nonce = 0; pong = false; arrived = false
}

/* A read (own false) or a write of this process; its reply may come at any time later. */
proctype request(bool own)
{
    byte mark_incarnation, mark_highest, ticket, r, v, label;
    bool usable;

    atomic { ticket = generation; mark_incarnation = incarnation; mark_highest = highest };
    atomic {
        if :: own -> number(); versions++; version = versions; publish(WRITTEN, position, 0) :: else fi;
        r = position; v = version; label = identity
    };
    /* the reply */
    atomic {
        usable = (r != 0);
#if MUT != 6
        usable = usable && mark_incarnation != 0 && mark_incarnation == incarnation && label == server_id;
#endif
        if
        :: usable && r < mark_highest -> usable = false; if :: (suspicion & BREAK) == 0 -> suspect(ORDER) :: else fi
        :: else
        fi
    };
#if MUT != 9
    atomic { if :: usable && highest < r -> highest = r :: else fi };
#endif
    atomic {
#if MUT != 6
        usable = usable && mark_incarnation == incarnation && label == server_id
#else
        skip
#endif
    };
#if MUT == 9
    atomic { if :: usable && highest < r -> highest = r :: else fi };
#endif
    atomic {
        if
        :: usable && ceiling <= r && generation == ticket && entry_position <= r ->
           ceiling = r; entry_position = r; entry_version = v
        :: usable && !(ceiling <= r && generation == ticket && entry_position <= r) -> invalidate(r)
        :: !usable -> invalidate(0)
        fi;
        if :: seen < v -> seen = v :: else fi;
        running--;
        mark_incarnation = 0; mark_highest = 0; ticket = 0; r = 0; v = 0; label = 0; usable = false; own = false
    }
}

proctype reader()
{
    bool granted, after_loss;
    byte c, v, p, mark, before;

    do
    :: !settled ->
#if MUT == 8
       atomic { v = entry_version; p = entry_position };
       atomic { granted = proven; c = claim; after_loss = claim_after_loss };
       mark = watermark;
#else
       atomic {
           before = seen; granted = proven; c = claim; after_loss = claim_after_loss;
           if :: !granted -> goto over :: else fi
       };
       atomic { v = entry_version; p = entry_position; if :: v == 0 -> goto over :: else fi };
       mark = watermark;
#endif
       atomic {
           if
           :: granted && v != 0 && p >= mark ->
              assert(v >= c); assert(!(after_loss && was_lost(v))); assert(v >= before || lost_to != 0)
           :: else
           fi;
over:      granted = false; after_loss = false; c = 0; v = 0; p = 0; mark = 0; before = 0;
           break
       }
    :: settled -> break
    od
}

/* The last look, when all is at rest. */
inline final_look()
{
    assert(proven);
    if
    :: entry_version != 0 && entry_position >= watermark -> assert(entry_version == version)
    :: else
    fi
}

proctype world(byte writes; byte losses; byte restarts; byte flushes; byte lifts)
{
    do
    :: atomic { writes > 0 -> writes--; number(); versions++; version = versions; publish(WRITTEN, position, 0) }
    :: atomic { losses > 0 && connected -> losses--; connected = false }
    :: atomic {
           restarts > 0 -> restarts--;
           lost_from = 1; lost_to = versions;
           version = 1; position = 1; identity++; connected = false
       }
    :: atomic { flushes > 0 -> flushes--; position = 0; versions++; version = versions }
    :: atomic { lifts > 0 -> lifts--; position = position + 3 }
    :: atomic { writes == 0 && losses == 0 && restarts == 0 && flushes == 0 && lifts == 0 -> break }
    od;
    running--
}

inline complete()
{
#if MUT == 1
    skip;
#else
    if :: (suspicion & ~LOST) && watermark < proof_position -> watermark = proof_position :: else fi;
#endif
    suspicion = 0; proven = true;
#if MUT == 3
    claim = version; claim_after_loss = (lost_to != 0);
#else
    claim = sent_version; claim_after_loss = sent_after_loss;
#endif
    nonce = 0; pong = false; arrived = false; proof_position = 0;
    if :: sent_quiet -> settled = true :: else fi
}

inline message_came(p)
{
    if
#if MUT != 4
    :: last != 0 && p != last + 1 ->
       anchored = false; invalidate(0);
       if :: p > last -> last = p; suspect(GAP) :: else -> last = p; suspect(ORDER) fi
    :: else ->
#else
    :: true ->
#endif
       last = p;
       if :: anchored -> invalidate(p) :: else -> invalidate(0) fi
    fi
}

inline proof_came(n, p)
{
    if
    :: n == nonce && nonce != 0 && !arrived ->
       if
#if MUT != 5
       :: p < known || p < last -> suspect(ORDER); last = 0; anchored = false
#else
       :: false
#endif
#if MUT != 4
       :: !(MUT != 5 && (p < known || p < last)) && last != 0 && p != last ->
          last = p; anchored = true; suspect(GAP);
          if :: highest < p -> highest = p :: else fi
#endif
       :: else ->
          last = p; anchored = true; arrived = true; proof_position = p;
          if :: highest < p -> highest = p :: else fi;
          if :: pong -> complete() :: else fi
       fi
    :: else
    fi
}

proctype subscriber()
{
    mtype kind;
    byte a, b;

    do
    :: atomic {         /* the loss is noticed, at last */
           channel && !connected && empty(wire) -> channel = false; ping_pending = false;
#if MUT == 1
           entry_version = 0; entry_position = 0;
#endif
           suspect(LOST)
       }
    :: atomic {         /* ... or before what had arrived is read */
           channel && !connected && nempty(wire) -> channel = false; ping_pending = false;
           do :: wire?kind, a, b :: empty(wire) -> break od;
#if MUT == 1
           entry_version = 0; entry_position = 0;
#endif
           suspect(LOST); a = 0; b = 0
       }
    :: atomic {
           !channel -> channel = true; connected = true;
#if MUT == 7
           last = 0;
#endif
           if
           :: server_id == 0 -> server_id = identity; incarnation = 1
           :: server_id != 0 && server_id != identity ->
              server_id = identity;
#if MUT != 2
              suspect(SERVER)
#endif
           :: else
           fi
       }
    :: atomic {
           wire?kind, a, b ->
           if
           :: kind == WRITTEN -> message_came(a)
           :: kind == PROOF -> proof_came(a, b)
           :: kind == PONG ->
              if
              :: a == nonce && nonce != 0 -> pong = true; if :: arrived -> complete() :: else fi
              :: else
              fi
           fi;
           a = 0; b = 0
       }
    :: atomic {         /* an attempt begins */
           channel && nonce == 0 && !heartbeat_pending && !settled &&
           (suspicion != 0 || quiet || nonces < IDLE_PROOFS) && nonces < 12 ->
           nonces++; nonce = nonces; pong = false; arrived = false;
           known = highest; if :: known < lift_to -> known = lift_to :: else fi;
           sent_version = version; sent_after_loss = (lost_to != 0); sent_quiet = quiet;
           ping_pending = true; heartbeat_pending = true; heartbeat_nonce = nonce; heartbeat_known = known
       }
    :: atomic {         /* the PING reaches the server */
           ping_pending && channel -> ping_pending = false; publish(PONG, nonces, 0)
       }
    :: atomic {         /* the heartbeat does, on another connection */
           heartbeat_pending -> heartbeat_pending = false;
#if MUT != 5
           if :: position < heartbeat_known || position == 0 -> position = heartbeat_known + MARGIN :: else fi;
#else
           if :: position == 0 -> position = 1 :: else fi;
#endif
           publish(PROOF, heartbeat_nonce, position)
       }
    :: atomic {         /* patience is over: what is missing was lost with an earlier subscription */
           channel && connected && nonce != 0 && !ping_pending && !heartbeat_pending && empty(wire) ->
           nonce = 0; pong = false; arrived = false
       }
    :: settled -> break
    od
}

init
{
    atomic {
        running = 2;
        run request(OWN); run reader(); run world(FOREIGN, LOSSES, RESTARTS, FLUSHES, LIFTS); run subscriber()
    };
    atomic { running == 0 -> quiet = true };
    timeout -> final_look()
}
