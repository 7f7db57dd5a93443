/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Foreign writers (track=bcast; docs/coherence.md; lib/remote/redis_tracking.c): one process, one key, one server whose event
 * loop works in turns.
 *
 * A turn: the sockets that have something to read are noted; then the server reads the noted ones in any order, each to its end,
 * also what has arrived meanwhile, and executes; PONGs and messages go into the subscription's stream at once, the report that the
 * key was written, once a turn and only if tracking is in force, at the end of it.  Positions do not move here (nobody but the
 * process itself raises them), so what is looked at is what they do not order: replies, reports, proofs, lost connections.
 *
 * Checked: a hit granted by a proof returns a version that was current at or after the sending of that proof (promise B); no hit
 * returns a version older than one that a reply has shown before it began (G1); at rest nothing but the server's version
 * is there.
 *
 * Situations (-DSITUATION=n):
 *   1  two fetches, two foreign writes (QUICK: one), two PINGs
 *   2  a fetch, two foreign writes (QUICK: one); the subscription or the control connection is lost, at first on the server's
 *      side alone
 *   3  a write of our own, a fetch, a foreign write, two PINGs (QUICK: one)
 *
 * Mutants (-DMUT=n), each must fail in the situation named by tests/models:
 *   1 another PING goes out before the last one is answered (R26)       2 nothing is cleared at the new subscription (R22)
 *   3 TRACKINGINFO is not asked for (R39, R41)                          4 a reply does not take the generation on ("went back")
 *   5 tracking is switched on before the subscription is there (R40)    6 the proof counts from its receipt
 *   7 a report is taken for our own write's if our message came before it
 *
 *   spin -DSITUATION=1 -a tracking.pml && gcc -O2 -DSAFETY -DCOLLAPSE -DVECTORSZ=512 -o pan pan.c && ./pan -m100000
 */
#ifndef SITUATION
#define SITUATION 1
#endif
#ifndef MUT
#define MUT 0
#endif
#ifdef QUICK
#define SOME 1
#else
#define SOME 2
#endif
#if SITUATION == 1
#define FETCHES 2
#define FOREIGN SOME
#define OWN 0
#define LOSSES 0
#elif SITUATION == 2
#define FETCHES 1
#define FOREIGN SOME
#define OWN 0
#define LOSSES 1
#else
#define FETCHES 1
#define FOREIGN 1
#define OWN 1
#define LOSSES 0
#endif
#if SITUATION == 3
#define PINGS SOME
#else
#define PINGS 2
#endif

mtype = { OURS, REPORT, PONG };

/* ---- the server */
byte version = 1, versions = 1;
bool subscribed = true, tracking = true, changed;
chan commands = [3] of { byte };        /* data: the request's number */
chan pings = [3] of { byte };           /* the subscription's input */
chan infos = [3] of { byte };           /* the control connection's input */
chan wire = [6] of { mtype, byte };     /* what comes on the subscription */
chan vouchers = [3] of { byte, bool };  /* answers on the control connection */
byte writes = FOREIGN, losses = LOSSES;

/* ---- the process */
byte entry, generation, claim;
bool proven, open = true;               /* open: the process takes its channel for good */
byte nonce, ponged, vouched, outstanding, sent = 0;
byte current_at[5];                     /* what was current when a PING was sent */
byte seen, announced, running;
byte reply[FETCHES + OWN];              /* version that a request read or made; 0: under way */

inline learn_nothing() { generation++; entry = 0 }

inline write_now()
{
    versions++; version = versions;
    if :: tracking -> changed = true :: else fi
}

inline execute(i)
{
    if
    :: i < OWN -> if :: subscribed -> wire!OURS, 0 :: else fi; write_now()
    :: else
    fi;
    reply[i] = version
}

active proctype server()
{
    bool data, subscription, control, foreign;
    byte i;
end:
    do
    :: atomic { /* the turn begins */
         (writes > 0 || nempty(commands) || nempty(pings) || nempty(infos)) ->
         data = nempty(commands); subscription = nempty(pings); control = nempty(infos); foreign = writes > 0
       };
       do
       :: atomic { foreign -> writes--; write_now(); foreign = false }
       :: atomic { foreign -> foreign = false } /* it comes in a later turn */
       :: atomic { data -> do :: commands?i -> execute(i) :: empty(commands) -> break od; data = false }
       :: atomic { subscription ->
            do :: pings?i -> if :: subscribed -> wire!PONG, i :: else fi :: empty(pings) -> break od; subscription = false }
       :: atomic { control -> do :: infos?i -> vouchers!i, tracking :: empty(infos) -> break od; control = false }
       :: atomic { /* the turn ends */
            !foreign && !data && !subscription && !control ->
            if :: changed && tracking && subscribed -> wire!REPORT, 0 :: else fi;
            changed = false; i = 0; break }
       od
    od
}

/* The loss happens on the server's side; the process learns of it later, or from TRACKINGINFO. */
active proctype breaker()
{
    if
    :: atomic { losses > 0 -> losses--; tracking = false; changed = false } /* the control connection, silently */
    :: atomic { losses > 0 -> losses--; tracking = false; changed = false; subscribed = false;
                do :: wire?_, _ :: empty(wire) -> break od } /* both */
    :: losses == 0
    fi
}

inline lose() { open = false; proven = false; nonce = 0; ponged = 0; vouched = 0 }

inline complete()
{
    if
    :: nonce != 0 && ponged == nonce && (vouched == nonce || MUT == 3) ->
#if MUT == 6
       claim = version;
#else
       claim = current_at[nonce];
#endif
       proven = true; nonce = 0
    :: else
    fi
}

active proctype subscriber()
{
    byte i;
    bool good;
end:
    do
    :: atomic { open && wire?[OURS, i] -> wire?OURS, i; announced = 1 }
    :: atomic { open && wire?[REPORT, i] -> wire?REPORT, i;
#if MUT == 7
         if :: announced > 0 -> announced = 0 :: else -> learn_nothing() fi
#else
         learn_nothing()
#endif
       }
    :: atomic { open && wire?[PONG, i] -> wire?PONG, i; outstanding--; ponged = i; complete(); i = 0 }
    :: atomic { open && vouchers?[i, good] -> vouchers?i, good;
         if
         :: good -> vouched = i; complete()
         :: !good && MUT != 3 -> lose()
         :: else
         fi; i = 0; good = false }
    :: atomic { open && sent < PINGS && (outstanding == 0 || MUT == 1) && nonce == 0 ->
         sent++; nonce = sent; outstanding++; current_at[nonce] = version; pings!nonce; infos!nonce }
#if MUT == 1
    :: atomic { open && nonce != 0 && sent < PINGS -> nonce = 0 } /* given up: another may go out */
#endif
    :: atomic { open && !subscribed && empty(wire) -> lose() } /* the end of the stream arrives */
    :: !open -> /* anew: everything that was under way on the old connections is gone */
       atomic { subscribed = false; tracking = false; changed = false;
                do :: wire?_, _ :: empty(wire) -> break od;
                do :: pings?_ :: empty(pings) -> break od;
                do :: infos?_ :: empty(infos) -> break od;
                do :: vouchers?_, _ :: empty(vouchers) -> break od;
                outstanding = 0; sent = 0 };
#if MUT == 5
       tracking = true;
       atomic { if :: changed -> changed = false :: else fi; learn_nothing() };
       subscribed = true;
#else
       subscribed = true;
       tracking = true;
#if MUT != 2
       atomic { learn_nothing() };
#endif
#endif
       open = true
    od
}

proctype request(byte i)
{
    byte ticket, v;
    atomic { ticket = generation; commands!i };
    reply[i] != 0;
    atomic {
        v = reply[i];
        if
#if MUT == 4
        :: generation == ticket -> entry = v
#else
        :: generation == ticket -> generation++; entry = v
#endif
        :: else -> learn_nothing()
        fi;
        if :: seen < v -> seen = v :: else fi;
        running--; v = 0; ticket = 0
    }
}

proctype reader()
{
    byte c, before;
    bool granted;
    atomic { before = seen; granted = proven; c = claim };
    atomic { if :: granted && entry != 0 -> assert(entry >= c); assert(entry >= before) :: else fi; c = 0; before = 0 }
}

init
{
    atomic {
        byte i = 0;
        running = FETCHES + OWN;
        do :: i < FETCHES + OWN -> run request(i); i++ :: else -> break od;
        i = 0
    };
    run reader();
    /* at rest: everything has happened and arrived, and freshness is proven anew (if PINGs are left for that) */
end:
    atomic {
        running == 0 && writes == 0 && losses == 0 && open && subscribed && (tracking || MUT == 3) && !changed && empty(wire) &&
        empty(pings) && empty(infos) && empty(vouchers) && empty(commands) && proven && nonce == 0 && claim == version ->
        assert(entry == 0 || entry == version)
    }
}
