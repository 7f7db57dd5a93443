# SPDX-License-Identifier: BSD-3-Clause
#
# Reads one JSON text, strictly, and prints a line for each of its scalars: path, tab, value; "results.0.engine<tab>nearcache".
# Lists print their length as "path.length".  Ends with status 1 and a word on stderr when the text is not JSON.

{ text = text $0 "\n" }
END {
    at = 1
    parse_value("")
    skip_blanks()
    if (at <= length(text))
        wrong("something after the end")
}

function wrong(why) {
    print "not JSON at byte " at ": " why ": " substr(text, at, 40) > "/dev/stderr"
    exit_now = 1
    exit 1
}
function skip_blanks() {
    while (at <= length(text) && index(" \t\r\n", substr(text, at, 1)))
        at++
}
function expect(character) {
    skip_blanks()
    if (substr(text, at, 1) != character)
        wrong("expected " character)
    at++
}
function next_is(character) {
    skip_blanks()
    if (substr(text, at, 1) != character)
        return 0
    at++
    return 1
}
function parse_string(    from) {
    expect("\"")
    from = at
    while ((c = substr(text, at, 1)) != "\"") {
        if (c == "" || c < " ")
            wrong("string")
        if (c == "\\") {
            at++
            if (substr(text, at, 1) == "u") {
                if (substr(text, at + 1, 4) !~ /^[0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F]$/)
                    wrong("escape")
            } else if (!index("\"\\/bfnrt", substr(text, at, 1)))
                wrong("escape")
        }
        at++
    }
    at++
    return substr(text, from, at - 1 - from)
}
function parse_object(path,    name) {
    expect("{")
    if (next_is("}"))
        return
    do {
        skip_blanks()
        name = parse_string()
        expect(":")
        parse_value(path == "" ? name : path "." name)
    } while (next_is(","))
    expect("}")
}
function parse_list(path,    count) {
    expect("[")
    count = 0
    if (!next_is("]")) {
        do
            parse_value(path "." count++)
        while (next_is(","))
        expect("]")
    }
    print path ".length\t" count
}
function parse_value(path,    c, word) {
    skip_blanks()
    c = substr(text, at, 1)
    if (c == "{")
        parse_object(path)
    else if (c == "[")
        parse_list(path)
    else if (c == "\"") {
        word = parse_string()
        print path "\t" word
    } else {
        word = substr(text, at, 40)
        if (!match(word, /^(true|false|null|-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?)/))
            wrong("value")
        print path "\t" substr(word, 1, RLENGTH)
        at += RLENGTH
    }
}
