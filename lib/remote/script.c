/* SPDX-License-Identifier: BSD-3-Clause
 * The server-side scripts.
 *
 * A script runs alone on the server, so whatever it does is one step for everybody else.  It is not a transaction,
 * though: what was done before an error stays done.  Hence the order inside (R12):
 *
 *   1. the condition (exists, equals): if it is not met nothing is written, and the reply says how far the server has
 *      come;
 *   2. the number: INCR of the position.  A position that was not there starts at the server's time in µs, so it never
 *      starts below where it was (R10).  This step is refused on a replica, without replicas, out of memory, and
 *      without rights: then nothing at all has happened;
 *   3. the message.  If it is refused (no right to the channel) the number is given back, so that numbers stay
 *      without holes, and again nothing has happened;
 *   4. the write.  If it is refused here, everybody has dropped a copy for nothing, which is harmless.  Unless the
 *      message carries the value: then everybody would keep what never was.  So of a plain SET the key's lease is
 *      removed before the message: where DEL is refused, nothing has happened; and where the message is, a load has
 *      become void for nothing.  The tags go after it, since an older value without them would be held by none.  What
 *      could refuse the SET itself and nothing before is a right that is missing, so that one is asked for first (where
 *      the server can tell: from version 7 on).
 *
 * INCR is the exception to 3 before 4: whether its write is possible (is the value an integer, does it overflow) is for
 * Redis alone to say, in 64 bits that Lua's numbers do not have.  So INCRBY comes before the message, and if the
 * message is refused it is taken back, by DECRBY, which keeps the time to live, or by removing what was absent.  Nobody
 * can have seen the value in between, and it can be taken back: the state that would refuse it (memory, replica) is
 * fixed for the run of a script, and would have refused the INCRBY too.  PTTL, which goes first, tells both what was
 * absent and the time left.
 *
 * A plain SET, by far the most frequent write, has a script of its own, which takes any number of keys: entering a
 * script costs Redis as much as a SET and a message together, so sixteen SETs in one run take little more than half of
 * the time of sixteen runs.  Each has its own outcome.  Nobody sees a state between two of them, so they may have one
 * number and one message (R36): what a process knows of any of the keys is from before all of them or from after all.
 * One key is not twice among them, for two values of a key at one position would have no order.  The same goes for
 * several DELs.
 *
 * A user must be able to make room when the server is out of memory, and must be able to tell everybody so: DEL,
 * EXPIRE, CLEAR and the heartbeat run with the flag allow-oom, which lets INCR through, too.  A write without a number
 * beside a position that goes on counting would be invisible to whoever missed its message.  Servers before 7 do not
 * know the flag; they get the script without it, and refuse.
 *
 * Every write removes the key's lease and tags (remote.h), before it takes effect: a loader that asked its source
 * earlier finds its lease gone and leaves the newer value alone.  EXPIRE leaves the tags, which are as true as the
 * value is, and gives them the same life: were they gone first, the value would count as one without tags.  A DEL of a
 * key that is absent but leased counts as a write: it is numbered and told, so that nobody joins the load that it has
 * made void.
 *
 * Lua's tostring writes 1.7e15 with 14 digits; string.format('%.0f') writes all of them.  Positions stay below 2^53
 * until the year 2255, so they are exact as Lua's numbers and as integer replies.  In the table that stands for an
 * error, err is the text.
 *
 * PERSIST in the heartbeat is the write that changes nothing: the position never has a time to live.  It is refused on
 * a replica and on a master that lost its replicas, and allowed out of memory (docs/design.md, section 2).  A position
 * that is below what its readers have seen jumps by LIFT, far enough that nobody's memory of the old one meets the new
 * one. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* strcasestr */
#endif
#include "remote/script.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "base/mutant.h"
#include "nearcache.h"
#include "remote/members.h"
#include "remote/remote.h"

#define ALLOW_OOM "#!lua flags=allow-oom\n"
#define LEASE "'" NEAR_LEASE_SUFFIX "'"
#define TAGS "'" NEAR_TAGS_SUFFIX "'"
#define TAG "'" NEAR_TAG_PREFIX "'"
#define FENCE "'" NEAR_FENCE_NAME "'"
#define EPOCH "'" NEAR_MEMBERS_EPOCH "'"

/* KEYS: position, keys
 * ARGV: channel, ttl, number of messages (1: for all keys; or one a key), messages' bodies, values
 * Reply: for each key its position, or the error; nothing has happened to those with an error.  One error for all: the
 * same.  DECRBY: a channel that is refused is refused from the first message on. */
const struct near__script near__script_set = {
    .text = "local pos,channel,ttl,told=KEYS[1],ARGV[1],ARGV[2],tonumber(ARGV[3])\n"
            "local count=#KEYS-1\n"
            "if redis.acl_check_cmd and not redis.acl_check_cmd('SET',KEYS[2],'') then\n"
            "  return redis.error_reply(\"NOPERM this user has no permissions to run the 'set' command\")\n"
            "end\n"
            "local last=redis.pcall('INCRBY',pos,told)\n"
            "if type(last)=='table' then return last end\n"
            "if last==told then\n"
            "  local t=redis.call('TIME')\n"
            "  last=t[1]*1000000+t[2]+told-1\n"
            "  redis.call('SET',pos,string.format('%.0f',last))\n"
            "end\n"
            "local out,p,e={}\n"
            "for i=1,count do\n"
            "  e=redis.pcall('DEL',KEYS[i+1].." LEASE ")\n"
            "  if i<=told and type(e)~='table' then\n"
            "    p=last-told+i\n"
            "    e=redis.pcall('PUBLISH',channel,'1'..string.format('%.0f',p)..':'..ARGV[3+i])\n"
            "  end\n"
            "  if type(e)=='table' then\n"
            "    if i<=told then redis.call('DECRBY',pos,told-i+1) end\n"
            "    for k=i,count do out[k]=e end\n"
            "    return out\n"
            "  end\n"
            "  redis.pcall('DEL',KEYS[i+1].." TAGS ")\n"
            "  if ttl=='0' then e=redis.pcall('SET',KEYS[i+1],ARGV[3+told+i])\n"
            "  else e=redis.pcall('SET',KEYS[i+1],ARGV[3+told+i],'PX',ttl) end\n"
            "  out[i]=e.err and e or p\n"
            "end\n"
            "return out\n",
    .sha1 = "5df2a510719b697bfe265aedd97dde6d60b6bb04",
};

/* The next position, into the script's variable.  A counter that was not there starts at the server's time in µs. */
#define TAKE_POSITION(p)                                                                                               \
    "local n=redis.pcall('INCR',pos)\n"                                                                                \
    "if type(n)=='table' then return n\n"                                                                              \
    "elseif n==1 then\n"                                                                                               \
    "  local t=redis.call('TIME')\n"                                                                                   \
    "  " p "=t[1]..string.format('%06d',t[2])\n"                                                                       \
    "  redis.call('SET',pos," p ")\n"                                                                                  \
    "else " p "=string.format('%.0f',n) end\n"

/* Several DELs, told by one message if any of the keys was there, or leased.
 * KEYS: position, keys.  ARGV: channel, body.  Reply: { position, for each key 0 it existed, 1 it did not } */
#define DELETE_TEXT                                                                                                    \
    "local pos=KEYS[1]\n"                                                                                              \
    "local out,told={},false\n"                                                                                        \
    "for i=2,#KEYS do\n"                                                                                               \
    "  out[i]=1-redis.call('EXISTS',KEYS[i])\n"                                                                        \
    "  told=told or out[i]==0 or redis.call('EXISTS',KEYS[i].." LEASE ")==1\n"                                         \
    "end\n"                                                                                                            \
    "out[1]=redis.call('GET',pos) or '0'\n"                                                                            \
    "if not told then return out end\n" TAKE_POSITION(                                                                 \
        "out[1]") "local e=redis.pcall('PUBLISH',ARGV[1],'1'..out[1]..':'..ARGV[2])\n"                                 \
                  "if type(e)=='table' then redis.call('DECR',pos) return e end\n"                                     \
                  "for i=2,#KEYS do redis.call('DEL',KEYS[i],KEYS[i].." LEASE ",KEYS[i].." TAGS ") end\n"              \
                  "return out\n"

static const struct near__script delete_without_flags = {
    .text = DELETE_TEXT,
    .sha1 = "acb825cf7edbc407ade0816ed8a92947b7c6708c",
};
const struct near__script near__script_delete = {
    .text = ALLOW_OOM DELETE_TEXT,
    .sha1 = "3136514522a78a588a93cc21925be774e9eb9bed",
    .without_flags = &delete_without_flags,
};

/* KEYS: position[, key]
 * ARGV: operation, channel, body, condition ("", "NX", "XX", "K" for KEEPTTL, or a mixture; of a DEL "A": announce
 *       always), ttl,
 *       value | delta, expected
 * Reply: { outcome, position, remaining PTTL, number }, outcome 0 done, 1 the key does not exist, 2 unmet
 * The least delta has no opposite, so it is taken back in two steps; numbers that Lua cannot hold are read from the
 * key. */
#define WRITE_TEXT                                                                                                     \
    "local pos,key=KEYS[1],KEYS[2]\n"                                                                                  \
    "local op,how,ttl,value=ARGV[1],ARGV[4],ARGV[5],ARGV[6]\n"                                                         \
    "local nothing,left\n"                                                                                             \
    "local done=0\n"                                                                                                   \
    "if op=='INCR' then left=redis.call('PTTL',key)\n"                                                                 \
    "elseif op=='DEL' or op=='EXPIRE' then\n"                                                                          \
    "  if how~='A' and redis.call('EXISTS',key)==0 then\n"                                                             \
    "    if op=='DEL' and redis.call('EXISTS',key.." LEASE ")==1 then done=1 else nothing=1 end\n"                     \
    "  end\n"                                                                                                          \
    "elseif op=='CAS' then\n"                                                                                          \
    "  local old=redis.call('GET',key)\n"                                                                              \
    "  if not old then nothing=1 elseif old~=ARGV[7] then nothing=2 end\n"                                             \
    "elseif op=='SET' then\n"                                                                                          \
    "  local xx=string.find(how,'XX',1,true)\n"                                                                        \
    "  if (xx or string.find(how,'NX',1,true)) and (redis.call('EXISTS',key)==1)~=(xx~=nil) then nothing=2 end\n"      \
    "end\n"                                                                                                            \
    "if nothing then return {nothing,redis.call('GET',pos) or '0',-1,'0'} end\n"                                       \
    "local p\n" TAKE_POSITION(                                                                                         \
        "p") "if op=='INCR' then\n"                                                                                    \
             "  n=redis.pcall('INCRBY',key,value)\n"                                                                   \
             "  if type(n)=='table' then redis.call('DECR',pos) return n end\n"                                        \
             "end\n"                                                                                                   \
             "local e=redis.pcall('PUBLISH',ARGV[2],'1'..p..':'..ARGV[3])\n"                                           \
             "if type(e)=='table' then\n"                                                                              \
             "  redis.call('DECR',pos)\n"                                                                              \
             "  if op~='INCR' then return e end\n"                                                                     \
             "  if left==-2 then redis.call('DEL',key) return e end\n"                                                 \
             "  if value=='-9223372036854775808' then redis.call('INCR',key) value='-9223372036854775807' end\n"       \
             "  redis.call('DECRBY',key,value)\n"                                                                      \
             "  return e\n"                                                                                            \
             "end\n"                                                                                                   \
             "if key then redis.call('DEL',key.." LEASE ") end\n"                                                      \
             "if key and op~='EXPIRE' then redis.call('DEL',key.." TAGS ") end\n"                                      \
             "if op=='INCR' then\n"                                                                                    \
             "  if n>-9007199254740992 and n<9007199254740992 then n=string.format('%.0f',n)\n"                        \
             "  else n=redis.call('GET',key) end\n"                                                                    \
             "  return {0,p,left,n}\n"                                                                                 \
             "elseif op=='SET' or op=='CAS' then\n"                                                                    \
             "  if string.find(how,'K',1,true) then redis.call('SET',key,value,'KEEPTTL') return "                     \
             "{0,p,redis.call('PTTL',key),'0'} end\n"                                                                  \
             "  if ttl=='0' then redis.call('SET',key,value) return {0,p,-1,'0'} end\n"                                \
             "  redis.call('SET',key,value,'PX',ttl)\n"                                                                \
             "  return {0,p,tonumber(ttl),'0'}\n"                                                                      \
             "elseif op=='DEL' then redis.call('DEL',key)\n"                                                           \
             "elseif op=='EXPIRE' then\n"                                                                              \
             "  for _,k in ipairs({key,key.." TAGS "}) do\n"                                                           \
             "    if ttl=='0' then redis.call('PERSIST',k) else redis.call('PEXPIRE',k,ttl) end\n"                     \
             "  end\n"                                                                                                 \
             "end\n"                                                                                                   \
             "return {done,p,-1,'0'}\n"

const struct near__script near__script_write = {
    .text = WRITE_TEXT,
    .sha1 = "9041634c4b2686dbeaa3d08aa19dd6dd3099ae78",
};
const struct near__script near__script_write_always = {
    .text = ALLOW_OOM WRITE_TEXT,
    .sha1 = "d0e460081fb530c39bb114974f2f5fb5d40fa552",
    .without_flags = &near__script_write,
};

/* KEYS: position, list of processes.  ARGV: private channel, nonce, known, our name, our bound in ms.
 * Reply: the position, or { position, epoch } when there is a list.  We are on it before the proof is published.  The
 * proof tells the server's replication id, too: a demotion and a promotion change nothing else that we could see, and
 * close no connection (R32).
 * Two lifts must not meet in one number, or somebody who was away between them would think that he missed nothing: the
 * nonce's last digits keep them apart. */
#define LIFT "1048576"
#define PROVE_TEXT                                                                                                     \
    "local pos,members=KEYS[1],KEYS[2]\n"                                                                              \
    "local known=tonumber(ARGV[3])\n"                                                                                  \
    "local p=redis.call('GET',pos)\n"                                                                                  \
    "local n=tonumber(p or '')\n"                                                                                      \
    "if not n or n<known then\n"                                                                                       \
    "  local t=redis.call('TIME')\n"                                                                                   \
    "  n=math.max(t[1]*1000000+t[2],known+" LIFT ")+tonumber(string.sub(ARGV[2],-6))\n"                                \
    "  p=string.format('%.0f',n)\n"                                                                                    \
    "  redis.call('SET',pos,p)\n"                                                                                      \
    "else redis.call('PERSIST',pos) end\n"                                                                             \
    "local epoch\n"                                                                                                    \
    "if redis.call('EXISTS',members)==1 then\n"                                                                        \
    "  epoch=redis.call('HGET',members," EPOCH ")\n"                                                                   \
    "  redis.call('HSET',members,ARGV[4],ARGV[5]..':'..ARGV[2])\n"                                                     \
    "end\n"                                                                                                            \
    "local id=redis.pcall('INFO','replication')\n"                                                                     \
    "id=type(id)=='string' and string.match(id,'\\nmaster_replid(:%w+)') or ''\n"                                      \
    "redis.call('PUBLISH',ARGV[1],'P'..ARGV[2]..':'..p..id)\n"                                                         \
    "if epoch then return {p,epoch} end\n"                                                                             \
    "return p\n"

static const struct near__script prove_without_flags = {
    .text = PROVE_TEXT,
    .sha1 = "529e7a159fb376b7e3f2a0a321544de3777e7d97",
};
const struct near__script near__script_prove = {
    .text = ALLOW_OOM PROVE_TEXT,
    .sha1 = "8d8e2a6900e024d79a4c08c844755403dcacd897",
    .without_flags = &prove_without_flags,
};

/* KEYS: position, list of processes.  ARGV: channel, body, epoch of a new list, its life, then name and value of those
 * who are gone.  Reply: { position, list }.  Who is on the list was so when the message was published. */
#define ROLL_TEXT                                                                                                      \
    "local pos,members=KEYS[1],KEYS[2]\n"                                                                              \
    "for i=5,#ARGV,2 do\n"                                                                                             \
    "  if redis.call('HGET',members,ARGV[i])==ARGV[i+1] then redis.call('HDEL',members,ARGV[i]) end\n"                 \
    "end\n"                                                                                                            \
    "if not redis.call('HGET',members," EPOCH ") then redis.call('HSET',members," EPOCH ",ARGV[3]) end\n"              \
    "redis.call('PEXPIRE',members,ARGV[4])\n"                                                                          \
    "local p\n" TAKE_POSITION("p") "local e=redis.pcall('PUBLISH',ARGV[1],'1'..p..':'..ARGV[2])\n"                     \
                                   "if type(e)=='table' then redis.call('DECR',pos) return e end\n"                    \
                                   "return {p,table.concat(redis.call('HGETALL',members),' ')}\n"

static const struct near__script roll_without_flags = {
    .text = ROLL_TEXT,
    .sha1 = "494b3c2d11af213b6f7c1b0423f76bf9704e17cd",
};
const struct near__script near__script_roll = {
    .text = ALLOW_OOM ROLL_TEXT,
    .sha1 = "f81d63d972721276ca7babf7654ba3c9be3c172f",
    .without_flags = &roll_without_flags,
};

/* KEYS: lock, counter.  ARGV: operation, token, ttl, least value of the counter (EXTEND; 0: any)
 * Reply: { outcome, '0', remaining PTTL, counter }, outcome 0 done, 1 nobody has it, 2 somebody else has it
 * A counter that was not there starts at the server's time in µs, so that losing it does not hand out a number twice.
 * INCR is refused where SET would be (out of memory, replica), and comes first: then nothing has happened.  A counter
 * that is only read is looked at first for the same reason: it may be something else, also what tonumber takes ("nan").
 */
const struct near__script near__script_lock = {
    .text = "local lock,count=KEYS[1],KEYS[2]\n"
            "local op,token,ttl,least=ARGV[1],ARGV[2],ARGV[3],tonumber(ARGV[4])\n"
            "local owner=redis.call('GET',lock)\n"
            "if owner and owner~=token then return {2,'0',redis.call('PTTL',lock),'0'} end\n"
            "local n\n"
            "if op~='LOCK' and not owner then return {1,'0',-1,'0'} end\n"
            "if op=='UNLOCK' then\n"
            "  redis.call('DEL',lock)\n"
            "  return {0,'0',-1,'0'}\n"
            "end\n"
            "if owner then\n"
            "  local v=redis.call('GET',count) or '0'\n"
            "  n=string.find(v,'^%-?%d+$') and tonumber(v)\n"
            "  if not n or math.abs(n)>=2^63 then\n"
            "    return redis.error_reply('ERR value is not an integer or out of range')\n"
            "  end\n"
            "else\n"
            "  n=redis.call('INCR',count)\n"
            "  if n==1 then\n"
            "    local t=redis.call('TIME')\n"
            "    n=t[1]*1000000+t[2]\n"
            "    redis.call('SET',count,string.format('%.0f',n))\n"
            "  end\n"
            "end\n"
            "if op=='LOCK' then redis.call('SET',lock,token,'PX',ttl)\n"
            "elseif ttl~='0' then redis.call('PEXPIRE',lock,ttl) end\n"
            "if n<least then\n"
            "  n=least\n"
            "  redis.call('SET',count,string.format('%.0f',n))\n"
            "end\n"
            "return {0,'0',redis.call('PTTL',lock),string.format('%.0f',n)}\n",
    .sha1 = "4c9a174d1ef95f8f5dff0fc1636541d7194621e8",
};

/* KEYS: position, key
 * ARGV: owner, lease in ms, how long before its end a value is old, how ("F": even if it is fresh or known to be
 * absent, "T": look at tags), prefix
 * Reply: { what (enum near__lease), position, PTTL, lease left, fence, does the key exist, is there a value, value,
 * tags } A tag that is not there any more may have been invalidated: it counts as that.  A lease is asked for again
 * with the same owner after an answer that was lost. */
const struct near__script near__script_lease = {
    .text = "local key,how,prefix=KEYS[2],ARGV[4],ARGV[5]\n"
            "local force=string.find(how,'F',1,true)\n"
            "local lease=key.." LEASE "\n"
            "local p=redis.call('GET',KEYS[1]) or '0'\n"
            "local v=redis.call('GET',key)\n"
            "local exists,left,tags=v and 1 or 0,-1,''\n"
            "if v then left=redis.call('PTTL',key) end\n"
            "if v and string.find(how,'T',1,true) then\n"
            "  tags=redis.call('GET',key.." TAGS ") or ''\n"
            "  local read,list=string.match(tags,'^(%d+)%z%x+%z(.*)$')\n"
            "  for tag in string.gmatch(list or '','([^%z]+)%z') do\n"
            "    local gone=redis.call('GET',prefix.." TAG "..tag)\n"
            "    if not gone or tonumber(gone)>tonumber(read) then v=false break end\n"
            "  end\n"
            "end\n"
            "local function answer(what,wait,fence)\n"
            "  return {what,p,left,wait,fence,exists,v and 1 or 0,v or '',tags}\n"
            "end\n"
            "if v and not force and (left<0 or left>tonumber(ARGV[3])) then return answer(0,-1,'0') end\n"
            "local held=redis.call('GET',lease)\n"
            "if held=='-' and exists==0 and not force then return answer(3,redis.call('PTTL',lease),'0') end\n"
            "if held and held~='-' and held~=ARGV[1] then return answer(2,redis.call('PTTL',lease),'0') end\n"
            "local fence=redis.pcall('INCR',prefix.." FENCE ")\n"
            "if type(fence)=='table' then return fence end\n"
            "if fence==1 then\n"
            "  local t=redis.call('TIME')\n"
            "  fence=t[1]*1000000+t[2]\n"
            "  redis.call('SET',prefix.." FENCE ",string.format('%.0f',fence))\n"
            "end\n"
            "if held then redis.call('DEL',lease) end\n"
            "redis.call('SET',lease,ARGV[1],'NX','PX',ARGV[2])\n"
            "return answer(1,tonumber(ARGV[2]),string.format('%.0f',fence))\n",
    .sha1 = "8166e406b23b907e31b33c75b8e99fe16952a2a7",
};

/* KEYS: position, key
 * ARGV: operation (FILL, RELEASE, TAG), channel, body, owner, ttl, how ("A": FILL only if the key is absent, RELEASE:
 * it is absent at the source), prefix, FILL: value, tags Reply: as a write's.  A tag that is new starts at the position
 * of the lease, not above it; it lives at least as long as the value, for a tag that is gone makes its values void. */
const struct near__script near__script_fill = {
    .text = "local pos,key=KEYS[1],KEYS[2]\n"
            "local op,ttl,how,prefix,value=ARGV[1],ARGV[5],ARGV[6],ARGV[7],ARGV[8]\n"
            "local lease=key.." LEASE "\n"
            "local met=op=='TAG' or redis.call('GET',lease)==ARGV[4]\n"
            "local read,list\n"
            "if op=='FILL' then\n"
            "  if how=='A' and redis.call('EXISTS',key)==1 then met=false end\n"
            "  read,list=string.match(ARGV[9],'^(%d+)%z%x+%z(.*)$')\n"
            "  for tag in string.gmatch(list or '','([^%z]+)%z') do\n"
            "    local gone=redis.call('GET',prefix.." TAG "..tag)\n"
            "    if gone and tonumber(gone)>tonumber(read) then met=false end\n"
            "  end\n"
            "end\n"
            "if not met then return {2,redis.call('GET',pos) or '0',-1,'0'} end\n"
            "local p\n" TAKE_POSITION(
                "p") "local e=redis.pcall('PUBLISH',ARGV[2],'1'..p..':'..ARGV[3])\n"
                     "if type(e)=='table' then redis.call('DECR',pos) return e end\n"
                     "if op=='TAG' then\n"
                     "  local left=redis.call('PTTL',key)\n"
                     "  if left==-1 then redis.call('SET',key,p)\n"
                     "  else redis.call('SET',key,p,'PX',string.format('%.0f',math.max(left,tonumber(ttl)))) end\n"
                     "  return {0,p,-1,'0'}\n"
                     "end\n"
                     "if op=='RELEASE' then\n"
                     "  if how=='A' then redis.call('DEL',key,key.." TAGS ") end\n"
                     "  if ttl=='0' or how~='A' then redis.call('DEL',lease) else redis.call('SET',lease,'-','PX',ttl) "
                     "end\n"
                     "  return {0,p,-1,'0'}\n"
                     "end\n"
                     "redis.call('DEL',lease,key.." TAGS ")\n"
                     "local function put(name,text)\n"
                     "  if ttl=='0' then redis.call('SET',name,text) else redis.call('SET',name,text,'PX',ttl) end\n"
                     "end\n"
                     "put(key,value)\n"
                     "if read then\n"
                     "  put(key.." TAGS ",ARGV[9])\n"
                     "  for tag in string.gmatch(list,'([^%z]+)%z') do\n"
                     "    local name=prefix.." TAG "..tag\n"
                     "    local left=redis.call('PTTL',name)\n"
                     "    if left==-2 then put(name,read)\n"
                     "    elseif left>=0 and ttl=='0' then redis.call('PERSIST',name)\n"
                     "    elseif left>=0 and left<tonumber(ttl) then redis.call('PEXPIRE',name,ttl) end\n"
                     "  end\n"
                     "end\n"
                     "return {0,p,ttl=='0' and -1 or tonumber(ttl),'0'}\n",
    .sha1 = "6639fd7e8424b66de7caa3baf96f220a8345f466",
};

/* KEYS: position, keys.  ARGV for each key: '=' and a value, or '#' and the SHA-1 of one.
 * Reply: position, then for each key its PTTL (-1: no end) if that is its value, -3 if it has another one, -2 if it has
 * none.  MGET takes half of the time of so many GETs; a user who may not needs no right more for it. */
const struct near__script near__script_compare = {
    .text = "local all=redis.pcall('MGET',unpack(KEYS,2))\n"
            "local out={redis.call('GET',KEYS[1]) or '0'}\n"
            "for i=2,#KEYS do\n"
            "  local a,v=ARGV[i-1]\n"
            "  if all.err then v=redis.pcall('GET',KEYS[i]) else v=all[i-1] end\n"
            "  if not v then out[i]=-2\n"
            "  elseif type(v)=='string' and string.sub(a,2)==(string.sub(a,1,1)=='=' and v or redis.sha1hex(v)) then\n"
            "    out[i]=redis.call('PTTL',KEYS[i])\n"
            "  else out[i]=-3 end\n"
            "end\n"
            "return out\n",
    .sha1 = "600d55f876dbeef16d648b53f915399b497ce7d6",
};

/* Tries every right that requests need, on a key of its own that is gone afterwards and with a message that nobody
 * reads; an error names the command.  KEYS: position, scratch.  ARGV: channel of the check.  Reply: OK. */
const struct near__script near__script_check = {
    .text = "local bad\n"
            "local function try(name,...)\n"
            "  local r=redis.pcall(name,...)\n"
            "  if not bad and type(r)=='table' and r.err then bad=redis.error_reply(r.err..' ('..name..')') end\n"
            "  return r\n"
            "end\n"
            "try('GET',KEYS[1])\n"
            "try('PERSIST',KEYS[1])\n"
            "try('SET',KEYS[2],'1','PX','60000')\n"
            "for _,name in ipairs({'INCR','DECR'}) do try(name,KEYS[2]) end\n"
            "for _,name in ipairs({'INCRBY','DECRBY','INCRBY'}) do try(name,KEYS[2],'1') end\n"
            "try('PEXPIRE',KEYS[2],'50000')\n"
            "local v=try('GET',KEYS[2])\n"
            "try('PTTL',KEYS[2])\n"
            "try('EXISTS',KEYS[2])\n"
            "try('DEL',KEYS[2])\n"
            "try('HSET',KEYS[2],'f','1')\n"
            "try('HGET',KEYS[2],'f')\n"
            "try('HGETALL',KEYS[2])\n"
            "try('HDEL',KEYS[2],'f')\n"
            "try('TIME')\n"
            "try('PUBLISH',ARGV[1],'check')\n"
            "if bad then return bad end\n"
            "if v~='2' then return redis.error_reply('ERR the scratch key did not keep its value') end\n"
            "return redis.status_reply('OK')\n",
    .sha1 = "c5cc6f19e3d0d91ba0f10967e986fd28ee80dbb3",
};

#ifdef NEAR_MUTANTS
/* What a plain SET must not be: done without number and message, or done before it can still be refused. */
const struct near__script *near__script_mutant(const struct near__script *script)
{
    static const struct near__script untold = {.text = "local out={}\n"
                                                       "for i=1,#KEYS-1 do\n"
                                                       "  redis.call('SET',KEYS[i+1],ARGV[3+ARGV[3]+i])\n"
                                                       "  out[i]=tonumber(redis.call('GET',KEYS[1]) or '1')\n"
                                                       "end\n"
                                                       "return out\n"};
    static const struct near__script early = {
        .text = "local out={}\n"
                "local p\n"
                "for i=1,#KEYS-1 do\n"
                "  redis.call('SET',KEYS[i+1],ARGV[3+ARGV[3]+i])\n"
                "  if i<=tonumber(ARGV[3]) then\n"
                "    p=redis.call('INCR',KEYS[1])\n"
                "    redis.call('PUBLISH',ARGV[1],'1'..string.format('%.0f',p)..':'..ARGV[3+i])\n"
                "  end\n"
                "  out[i]=p\n"
                "end\n"
                "return out\n"};
    if (script != &near__script_set)
        return script;
    return NEAR_MUTANT(WRITE_UNTOLD) ? &untold : &early;
}
#endif

/* ---------------------------------------------------------------- names */

static char *joined(const struct near__alloc *alloc, const char *first, const void *second, size_t second_size)
{
    size_t size = strlen(first);
    char *text = near__alloc(alloc, size + second_size + 1);
    if (!text)
        return NULL;
    memcpy(text, first, size);
    if (second_size)
        memcpy(text + size, second, second_size);
    text[size + second_size] = '\0';
    return text;
}

char *near__position_key(const struct near__alloc *alloc, const char *prefix)
{
    return joined(alloc, NEAR_POSITION_KEY_BEGIN, prefix, strlen(prefix));
}

char *near__shared_channel(const struct near__alloc *alloc, unsigned database, const char *prefix)
{
    char begin[40];
    snprintf(begin, sizeof begin, "nearcache:%u:", database);
    return joined(alloc, begin, prefix, strlen(prefix));
}

char *near__private_channel(const struct near__alloc *alloc, const char *shared, const void *name, size_t name_size)
{
    char *begin = joined(alloc, shared, ":", 1);
    char *text = begin ? joined(alloc, begin, name, name_size) : NULL;
    near__free(alloc, begin);
    return text;
}

char *near__pattern_of(const struct near__alloc *alloc, const char *text)
{
    char *pattern = near__alloc(alloc, strlen(text) * 2 + 2), *out = pattern;
    if (!pattern)
        return NULL;
    for (; *text; text++) {
        if (strchr("*?[]\\", *text))
            *out++ = '\\';
        *out++ = *text;
    }
    *out++ = '*';
    *out = '\0';
    return pattern;
}

/* ---------------------------------------------------------------- errors */

static const struct {
    const char *code;
    int status;
} codes[] = {
    {"LOADING", NEAR_ERR_LOADING},
    {"READONLY", NEAR_ERR_READONLY},
    {"OOM", NEAR_ERR_FULL},
    {"NOAUTH", NEAR_ERR_AUTH},
    {"WRONGPASS", NEAR_ERR_AUTH},
    {"DENIED", NEAR_ERR_AUTH}, /* protected mode: without a password it talks to its own machine only */
    {"NOPERM", NEAR_ERR_DENIED},
    {"MOVED", NEAR_ERR_MOVED},
    {"ASK", NEAR_ERR_MOVED},
    {"CROSSSLOT", NEAR_ERR_MOVED},
    {"CLUSTERDOWN", NEAR_ERR_MOVED},
    {"TRYAGAIN", NEAR_ERR_MOVED},
    {"BUSY", NEAR_ERR_SCRIPT_BUSY},
    {"UNKILLABLE", NEAR_ERR_SCRIPT_BUSY},
    {"WRONGTYPE", NEAR_ERR_WRONG_TYPE},
    {"MASTERDOWN", NEAR_ERR_UNAVAILABLE}, /* a replica without its master: nothing was executed */
    {"MISCONF", NEAR_ERR_MISCONFIGURED},
    {"NOREPLICAS", NEAR_ERR_MISCONFIGURED},
};

/* Plain ERR says what it means in words only. */
static const struct {
    const char *words;
    int status;
} phrases[] = {
    {"user executing the script can't", NEAR_ERR_DENIED}, /* how 7.0 says NOPERM inside a script, */
    {"ACL failure in script", NEAR_ERR_DENIED},           /* and how 7.2 and later do */
    {"max number of clients", NEAR_ERR_MAX_CLIENTS},
    {"not an integer or out of range", NEAR_ERR_OVERFLOW},
    {"would overflow", NEAR_ERR_OVERFLOW},
    {"without any password configured", NEAR_ERR_AUTH},
    {"operation not permitted", NEAR_ERR_AUTH},
    {"invalid password", NEAR_ERR_AUTH},
};

static int starts_with_code(const char *text, const char *code)
{
    size_t n = strlen(code);
    return strncmp(text, code, n) == 0 && (text[n] == ' ' || text[n] == '\0' || text[n] == ':');
}

/* Redis before 7 wraps what a script's command said: "ERR Error running script (call to f_…): @user_script:12:
 * WRONGTYPE …". */
static const char *unwrapped(const char *text)
{
    const char *inner = strstr(text, "@user_script: ");
    if (!inner)
        inner = strstr(text, "@user_script:");
    if (strncmp(text, "ERR ", 4) != 0 || !inner)
        return text;
    inner = strstr(inner + 13, ": ");
    if (!inner)
        return text;
    inner += 2;
    return *inner == '-' ? inner + 1 : inner;
}

int near__error_status(const char *text)
{
    text = unwrapped(text);
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (starts_with_code(text, codes[i].code))
            return codes[i].status;
    for (size_t i = 0; i < sizeof phrases / sizeof *phrases; i++)
        if (strcasestr(text, phrases[i].words))
            return phrases[i].status;
    return NEAR_ERR_REMOTE;
}

int near__error_is_noscript(const char *text)
{
    return starts_with_code(text, "NOSCRIPT");
}

/* A server before 7 takes the line with the flags for Lua. */
int near__error_is_flags(const char *text)
{
    return strstr(text, "Error compiling script") != NULL;
}
