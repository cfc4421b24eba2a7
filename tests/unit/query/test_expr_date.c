/* tests/unit/query/test_expr_date.c — dates: parts, formats, zones, arithmetic. */
#include "tests/unit/query/expr_cases.h"
#include "veddb-storaged/query/date.h"

#define L(n)    "{'$numberLong': '" #n "'}"
#define DATE(s) "{'$date': '" s "'}"

Test(expr_date, parts)
{
#define DOC "{'d': " DATE("2014-01-01T08:15:39.736Z") "}"
    static const expr_case_t cases[] = {
        {DOC, "{'$year': '$d'}", "2014", 0},
        {DOC, "{'$month': '$d'}", "1", 0},
        {DOC, "{'$dayOfMonth': '$d'}", "1", 0},
        {DOC, "{'$hour': '$d'}", "8", 0},
        {DOC, "{'$minute': '$d'}", "15", 0},
        {DOC, "{'$second': '$d'}", "39", 0},
        {DOC, "{'$millisecond': '$d'}", "736", 0},
        {DOC, "{'$dayOfYear': '$d'}", "1", 0},
        {DOC, "{'$dayOfWeek': '$d'}", "4", 0},
        {DOC, "{'$week': '$d'}", "0", 0},
        {DOC, "{'$isoWeek': '$d'}", "1", 0},
        {DOC, "{'$isoWeekYear': '$d'}", L(2014), 0},
        {DOC, "{'$isoDayOfWeek': '$d'}", "3", 0},
        {DOC, "{'$hour': {'date': '$d', 'timezone': '+03:30'}}", "11", 0},
        {DOC, "{'$hour': {'date': '$d', 'timezone': '-09'}}", "23", 0},
        {DOC, "{'$year': {'date': '$d', 'timezone': '-0900'}}", "2013", 0},
        {DOC, "{'$hour': {'date': '$d', 'timezone': 'America/New_York'}}", "3", 0},
        {DOC, "{'$hour': {'date': '$d', 'timezone': null}}", "null", 0},
        {DOC, "{'$year': ['$d']}", "2014", 0},
        {NULL, "{'$isoWeek': " DATE("2016-01-04T00:00:00Z") "}", "1", 0},
        {NULL, "{'$isoWeek': " DATE("2016-01-03T00:00:00Z") "}", "53", 0},
        {NULL, "{'$isoWeekYear': " DATE("2016-01-03T00:00:00Z") "}", L(2015), 0},
        {NULL, "{'$isoWeekYear': " DATE("2024-12-30T00:00:00Z") "}", L(2025), 0},
        {NULL, "{'$week': " DATE("2016-01-03T00:00:00Z") "}", "1", 0},
        {NULL, "{'$year': " DATE("1969-12-31T23:59:59.999Z") "}", "1969", 0},
        {NULL, "{'$dayOfYear': " DATE("2024-12-31T00:00:00Z") "}", "366", 0},
        {NULL, "{'$year': {'$oid': '5ab9c3da31c2ab715d421285'}}", "2018", 0},
        {NULL, "{'$year': '$none'}", "null", 0},
        {NULL, "{'$year': 'x'}", NULL, 16006},
        {NULL, "{'$year': 5}", NULL, 16006},
        {NULL, "{'$year': []}", NULL, 40536},
        {NULL, "{'$year': {'date': '$d', 'x': 1}}", NULL, 40535},
        {NULL, "{'$year': {'timezone': 'UTC'}}", NULL, 40539},
        {DOC, "{'$year': {'date': '$d', 'timezone': 5}}", NULL, 40533},
        {DOC, "{'$year': {'date': '$d', 'timezone': 'Mars/Base'}}", NULL, 40485},
        {DOC, "{'$year': {'date': '$d', 'timezone': '../etc/passwd'}}", NULL, 40485},
        {DOC, "{'$year': {'date': '$d', 'timezone': ''}}", NULL, 40485},
        {DOC, "{'$year': {'date': '$d', 'timezone': 'Europe'}}", NULL, 40485},
        {DOC, "{'$dateToParts': {'date': '$d'}}",
         "{'year': 2014, 'month': 1, 'day': 1, 'hour': 8, 'minute': 15, 'second': 39, "
         "'millisecond': 736}",
         0},
        {DOC, "{'$dateToParts': {'date': '$d', 'iso8601': true, 'timezone': '-10'}}",
         "{'isoWeekYear': 2014, 'isoWeek': 1, 'isoDayOfWeek': 2, 'hour': 22, 'minute': 15, "
         "'second': 39, 'millisecond': 736}",
         0},
        {DOC, "{'$dateToParts': {'date': null}}", "null", 0},
        {DOC, "{'$dateToParts': {'date': '$d', 'iso8601': 1}}", NULL, 40521},
        {DOC, "{'$dateToParts': {}}", NULL, 40522},
        {DOC, "{'$dateToParts': 1}", NULL, 40524},
        {DOC, "{'$dateToParts': {'date': '$d', 'x': 1}}", NULL, 40520},
    };
    EXPR_CHECK(cases);
#undef DOC
}

Test(expr_date, from_parts)
{
    static const expr_case_t cases[] = {
        {NULL, "{'$dateFromParts': {'year': 2017, 'month': 2, 'day': 8, 'hour': 12}}",
         DATE("2017-02-08T12:00:00Z"), 0},
        {NULL,
         "{'$dateFromParts': {'year': 2016, 'month': 12, 'day': 31, 'hour': 23, 'minute': 46, "
         "'second': 12, 'timezone': "
         "'America/New_York'}}",
         DATE("2017-01-01T04:46:12Z"), 0},
        {NULL,
         "{'$dateFromParts': {'isoWeekYear': 2017, 'isoWeek': 6, 'isoDayOfWeek': 3, 'hour': 12}}",
         DATE("2017-02-08T12:00:00Z"), 0},
        {NULL, "{'$dateFromParts': {'year': 2017, 'month': 14, 'day': 1}}",
         DATE("2018-02-01T00:00:00Z"), 0},
        {NULL, "{'$dateFromParts': {'year': 2017, 'month': 0, 'day': 0}}",
         DATE("2016-11-30T00:00:00Z"), 0},
        {NULL, "{'$dateFromParts': {'year': 2017, 'second': 3661, 'millisecond': -1}}",
         DATE("2017-01-01T01:01:00.999Z"), 0},
        {NULL, "{'$dateFromParts': {'year': 2017, 'month': '$none'}}", "null", 0},
        {NULL, "{'$dateFromParts': {'year': 2017, 'timezone': '$none'}}", "null", 0},
        {NULL, "{'$dateFromParts': {'year': 0}}", NULL, 40523},
        {NULL, "{'$dateFromParts': {'year': 10000}}", NULL, 40523},
        {NULL, "{'$dateFromParts': {'isoWeekYear': 0}}", NULL, 31095},
        {NULL, "{'$dateFromParts': {'year': 2017, 'day': 40000}}", NULL, 31034},
        {NULL, "{'$dateFromParts': {'year': 2017, 'day': 1.5}}", NULL, 40515},
        {NULL, "{'$dateFromParts': {'month': 1}}", NULL, 40516},
        {NULL, "{'$dateFromParts': {'year': 1, 'isoWeek': 1}}", NULL, 40489},
        {NULL, "{'$dateFromParts': {'isoWeekYear': 1, 'month': 1}}", NULL, 40525},
        {NULL, "{'$dateFromParts': {'x': 1}}", NULL, 40518},
        {NULL, "{'$dateFromParts': 1}", NULL, 40519},
        {NULL, "{'$dateFromParts': {'year': 2017, 'timezone': 1}}", NULL, 40517},
        {NULL, "{'$dateFromParts': {'year': 2017, 'second': " L(9223372036854775807) "}}", NULL,
         15},
    };
    EXPR_CHECK(cases);
}

Test(expr_date, to_string)
{
#define DOC "{'d': " DATE("2014-01-01T08:15:39.736Z") "}"
    static const expr_case_t cases[] = {
        {DOC, "{'$dateToString': {'date': '$d'}}", "'2014-01-01T08:15:39.736Z'", 0},
        {DOC, "{'$dateToString': {'format': '%Y-%m-%d', 'date': '$d'}}", "'2014-01-01'", 0},
        {DOC,
         "{'$dateToString': {'format': '%H:%M:%S:%L%z', 'date': '$d', 'timezone': "
         "'America/New_York'}}",
         "'03:15:39:736-0500'", 0},
        {DOC, "{'$dateToString': {'format': '%H:%M:%S:%L%z', 'date': '$d', 'timezone': '+04:30'}}",
         "'12:45:39:736+0430'", 0},
        {DOC, "{'$dateToString': {'format': 'minutes %Z', 'date': '$d', 'timezone': '+04:30'}}",
         "'minutes +270'", 0},
        {DOC, "{'$dateToString': {'format': '%j|%w|%u|%U|%V|%G|%b|%B|%%', 'date': '$d'}}",
         "'001|4|3|00|01|2014|Jan|January|%'", 0},
        {DOC, "{'$dateToString': {'format': '', 'date': '$d'}}", "''", 0},
        {DOC, "{'$dateToString': {'date': '$none', 'onNull': 'none'}}", "'none'", 0},
        {DOC, "{'$dateToString': {'date': '$none'}}", "null", 0},
        {DOC, "{'$dateToString': {'date': '$d', 'timezone': null}}", "null", 0},
        {DOC, "{'$dateToString': {'date': '$d', 'format': null}}", "null", 0},
        {DOC, "{'$dateToString': {'date': '$d', 'format': '%'}}", NULL, 18535},
        {DOC, "{'$dateToString': {'date': '$d', 'format': '%Q'}}", NULL, 18536},
        {DOC, "{'$dateToString': {'date': '$d', 'format': 5}}", NULL, 18533},
        {DOC, "{'$dateToString': {'format': '%Y'}}", NULL, 18628},
        {DOC, "{'$dateToString': 1}", NULL, 18629},
        {DOC, "{'$dateToString': {'date': '$d', 'x': 1}}", NULL, 18534},
        {DOC, "{'$dateToString': {'date': 5}}", NULL, 16006},
        {NULL, "{'$dateToString': {'date': {'$date': {'$numberLong': '253402300800000'}}}}", NULL,
         18537},
    };
    EXPR_CHECK(cases);
#undef DOC
}

Test(expr_date, from_string)
{
    static const expr_case_t cases[] = {
        {NULL, "{'$dateFromString': {'dateString': '2017-02-08T12:10:40.787'}}",
         DATE("2017-02-08T12:10:40.787Z"), 0},
        {NULL,
         "{'$dateFromString': {'dateString': '2017-02-08T12:10:40.787', 'timezone': "
         "'America/New_York'}}",
         DATE("2017-02-08T17:10:40.787Z"), 0},
        {NULL, "{'$dateFromString': {'dateString': '2017-02-08'}}", DATE("2017-02-08T00:00:00Z"),
         0},
        {NULL, "{'$dateFromString': {'dateString': '2017-02-08T12:10:40Z'}}",
         DATE("2017-02-08T12:10:40Z"), 0},
        {NULL, "{'$dateFromString': {'dateString': '2017-02-08T12:10:40+02:00'}}",
         DATE("2017-02-08T10:10:40Z"), 0},
        {NULL, "{'$dateFromString': {'dateString': '2017-02-08 12:10'}}",
         DATE("2017-02-08T12:10:00Z"), 0},
        {NULL, "{'$dateFromString': {'dateString': '20170208T121040'}}",
         DATE("2017-02-08T12:10:40Z"), 0},
        {NULL, "{'$dateFromString': {'dateString': '2017-W06-3'}}", DATE("2017-02-08T00:00:00Z"),
         0},
        {NULL, "{'$dateFromString': {'dateString': '02/08/2017'}}", DATE("2017-02-08T00:00:00Z"),
         0},
        {NULL, "{'$dateFromString': {'dateString': '8 February 2017 1:30 pm'}}",
         DATE("2017-02-08T13:30:00Z"), 0},
        {NULL, "{'$dateFromString': {'dateString': 'Feb 8th, 2017'}}", DATE("2017-02-08T00:00:00Z"),
         0},
        {NULL, "{'$dateFromString': {'dateString': 'Wed, 08 Feb 2017 12:10:40 GMT'}}",
         DATE("2017-02-08T12:10:40Z"), 0},
        {NULL, "{'$dateFromString': {'dateString': '2017-02-08 12:10:40 Europe/Paris'}}",
         DATE("2017-02-08T11:10:40Z"), 0},
        {NULL, "{'$dateFromString': {'dateString': 'yesterday at noon'}}", NULL, 241},
        {NULL, "{'$dateFromString': {'dateString': '2017-13-08'}}", NULL, 241},
        {NULL, "{'$dateFromString': {'dateString': '2017-02-08T25:61:00'}}", NULL, 241},
        {NULL, "{'$dateFromString': {'dateString': '12:10'}}", NULL, 241},
        {NULL, "{'$dateFromString': {'dateString': ''}}", NULL, 241},
        {NULL,
         "{'$dateFromString': {'dateString': '2017-02-08T12:10:40Z', 'timezone': 'Europe/Paris'}}",
         NULL, 241},
        {NULL, "{'$dateFromString': {'dateString': '06-15-2018', 'format': '%m-%d-%Y'}}",
         DATE("2018-06-15T00:00:00Z"), 0},
        {NULL,
         "{'$dateFromString': {'dateString': '15 Jun 2018 09:05:01.250 +0130', 'format': '%d %b %Y "
         "%H:%M:%S.%L %z'}}",
         DATE("2018-06-15T07:35:01.250Z"), 0},
        {NULL, "{'$dateFromString': {'dateString': '2018-166', 'format': '%Y-%j'}}",
         DATE("2018-06-15T00:00:00Z"), 0},
        {NULL, "{'$dateFromString': {'dateString': '2018-24-5', 'format': '%G-%V-%u'}}",
         DATE("2018-06-15T00:00:00Z"), 0},
        {NULL, "{'$dateFromString': {'dateString': '2018-06', 'format': '%Y-%m'}}", NULL, 241},
        {NULL, "{'$dateFromString': {'dateString': '2018-06-15x', 'format': '%Y-%m-%d'}}", NULL,
         241},
        {NULL, "{'$dateFromString': {'dateString': '2018-6-15', 'format': '%Y-%m-%d'}}", NULL, 241},
        {NULL, "{'$dateFromString': {'dateString': 'x', 'onError': 'bad'}}", "'bad'", 0},
        {NULL, "{'$dateFromString': {'dateString': 5, 'onError': 'bad'}}", "'bad'", 0},
        {NULL, "{'$dateFromString': {'dateString': 5}}", NULL, 241},
        {NULL, "{'$dateFromString': {'dateString': null, 'onNull': 'none'}}", "'none'", 0},
        {NULL, "{'$dateFromString': {'dateString': '$none'}}", "null", 0},
        {NULL, "{'$dateFromString': {'dateString': '2017-02-08', 'timezone': null}}", "null", 0},
        {NULL, "{'$dateFromString': {'dateString': '2017-02-08', 'format': null}}", "null", 0},
        {NULL, "{'$dateFromString': {'dateString': '2017-02-08', 'format': 1}}", NULL, 40684},
        {NULL, "{'$dateFromString': {'dateString': '2017-02-08', 'format': '%U'}}", NULL, 18536},
        {NULL, "{'$dateFromString': {'timezone': 'UTC'}}", NULL, 40542},
        {NULL, "{'$dateFromString': 'x'}", NULL, 40540},
        {NULL, "{'$dateFromString': {'dateString': 'x', 'y': 1}}", NULL, 40541},
    };
    EXPR_CHECK(cases);
}

#define ADD(date, unit, amount)                                                                    \
    "{'$dateAdd': {'startDate': " DATE(date) ", 'unit': '" unit "', 'amount': " amount "}}"

Test(expr_date, add)
{
    static const expr_case_t cases[] = {
        {NULL, ADD("2020-12-31T12:10:05Z", "year", "-5"), DATE("2015-12-31T12:10:05Z"), 0},
        {NULL, ADD("2020-12-31T12:10:05Z", "month", "2"), DATE("2021-02-28T12:10:05Z"), 0},
        {NULL, ADD("2020-10-31T00:00:00Z", "quarter", "1"), DATE("2021-01-31T00:00:00Z"), 0},
        {NULL, ADD("2020-02-28T00:00:00Z", "day", "2"), DATE("2020-03-01T00:00:00Z"), 0},
        {NULL, ADD("2020-02-28T00:00:00Z", "week", "-1"), DATE("2020-02-21T00:00:00Z"), 0},
        {NULL, ADD("2020-02-28T23:00:00Z", "hour", "2"), DATE("2020-02-29T01:00:00Z"), 0},
        {NULL, ADD("2020-02-28T23:00:00Z", "minute", "90"), DATE("2020-02-29T00:30:00Z"), 0},
        {NULL, ADD("2020-02-28T23:00:00Z", "millisecond", "5"), DATE("2020-02-28T23:00:00.005Z"),
         0},
        {NULL,
         "{'$dateAdd': {'startDate': " DATE(
             "2021-03-13T18:00:00Z") ", 'unit': 'day', 'amount': 1, 'timezone': "
                                     "'America/New_York'}}",
         DATE("2021-03-14T17:00:00Z"), 0},
        {NULL,
         "{'$dateAdd': {'startDate': " DATE(
             "2021-03-13T18:00:00Z") ", 'unit': 'hour', 'amount': 24, 'timezone': "
                                     "'America/New_York'}}",
         DATE("2021-03-14T18:00:00Z"), 0},
        {NULL,
         "{'$dateSubtract': {'startDate': " DATE(
             "2021-03-31T00:00:00Z") ", 'unit': 'month', 'amount': 1}}",
         DATE("2021-02-28T00:00:00Z"), 0},
        {NULL, "{'$dateAdd': {'startDate': null, 'unit': 'day', 'amount': 1}}", "null", 0},
        {NULL,
         "{'$dateAdd': {'startDate': " DATE(
             "2021-03-31T00:00:00Z") ", 'unit': 'day', 'amount': null}}",
         "null", 0},
        {NULL, ADD("2021-03-31T00:00:00Z", "decade", "1"), NULL, 9},
        {NULL, ADD("2021-03-31T00:00:00Z", "day", "1.5"), NULL, 5166405},
        {NULL, ADD("2021-03-31T00:00:00Z", "year", L(9223372036854775807)), NULL, 5166406},
        {NULL, ADD("2021-03-31T00:00:00Z", "millisecond", L(9223372036854775807)), NULL, 5166406},
        {NULL, "{'$dateAdd': {'startDate': 'x', 'unit': 'day', 'amount': 1}}", NULL, 5166403},
        {NULL,
         "{'$dateAdd': {'startDate': " DATE("2021-03-31T00:00:00Z") ", 'unit': 5, 'amount': 1}}",
         NULL, 5166404},
        {NULL, "{'$dateAdd': 1}", NULL, 5166400},
        {NULL, "{'$dateAdd': {'x': 1}}", NULL, 5166401},
        {NULL, "{'$dateAdd': {'unit': 'day', 'amount': 1}}", NULL, 5166402},
        {NULL,
         "{'$dateSubtract': {'startDate': " DATE(
             "2021-03-31T00:00:00Z") ", 'unit': 'day', 'amount': " L(-9223372036854775808) "}}",
         NULL, 6045000},
    };
    EXPR_CHECK(cases);
}

#define DIFF(a, b, unit)                                                                           \
    "{'$dateDiff': {'startDate': " DATE(a) ", 'endDate': " DATE(b) ", 'unit': '" unit "'}}"

Test(expr_date, diff)
{
    static const expr_case_t cases[] = {
        {NULL, DIFF("2020-12-31T23:59:59Z", "2021-01-01T00:00:00Z", "year"), L(1), 0},
        {NULL, DIFF("2021-01-31T00:00:00Z", "2021-02-01T00:00:00Z", "month"), L(1), 0},
        {NULL, DIFF("2021-03-31T00:00:00Z", "2021-04-01T00:00:00Z", "quarter"), L(1), 0},
        {NULL, DIFF("2021-01-30T18:00:00Z", "2021-01-31T12:00:00Z", "week"), L(1), 0},
        {NULL, DIFF("2021-01-31T23:00:00Z", "2021-02-02T01:00:00Z", "day"), L(2), 0},
        {NULL, DIFF("2021-02-02T01:00:00Z", "2021-01-31T23:00:00Z", "day"), L(-2), 0},
        {NULL, DIFF("2021-01-31T23:59:00Z", "2021-02-01T00:01:00Z", "hour"), L(1), 0},
        {NULL, DIFF("2021-01-31T23:59:59Z", "2021-02-01T00:00:01Z", "minute"), L(1), 0},
        {NULL, DIFF("2021-01-31T23:59:59Z", "2021-02-01T00:00:01Z", "second"), L(2), 0},
        {NULL, DIFF("2021-01-31T23:59:59Z", "2021-02-01T00:00:01Z", "millisecond"), L(2000), 0},
        {NULL,
         "{'$dateDiff': {'startDate': " DATE("2021-01-24T18:00:00Z") ", 'endDate': " DATE(
             "2021-01-25T18:00:00Z") ", 'unit': 'week', "
                                     "'startOfWeek': 'Monday'}}",
         L(1), 0},
        {NULL,
         "{'$dateDiff': {'startDate': " DATE("2021-01-01T04:30:00Z") ", 'endDate': " DATE(
             "2021-01-01T05:30:00Z") ", 'unit': 'year', "
                                     "'timezone': 'America/New_York'}}",
         L(1), 0},
        {NULL, "{'$dateDiff': {'startDate': null, 'endDate': 1, 'unit': 'day'}}", "null", 0},
        {NULL, DIFF("2021-01-31T23:59:59Z", "2021-02-01T00:00:01Z", "fortnight"), NULL, 5439014},
        {NULL, "{'$dateDiff': {'startDate': 1, 'endDate': 1, 'unit': 'day'}}", NULL, 5166307},
        {NULL, "{'$dateDiff': {'startDate': 1, 'endDate': 1, 'unit': 5}}", NULL, 5166307},
        {NULL, "{'$dateDiff': {'startDate': 1, 'endDate': 1, 'unit': 'day', 'timezone': 'x'}}",
         NULL, 40485},
        {NULL, "{'$dateDiff': 1}", NULL, 5166301},
        {NULL, "{'$dateDiff': {'x': 1}}", NULL, 5166302},
        {NULL, "{'$dateDiff': {'endDate': 1, 'unit': 1}}", NULL, 5166303},
        {NULL, "{'$dateDiff': {'startDate': 1, 'unit': 1}}", NULL, 5166304},
        {NULL, "{'$dateDiff': {'startDate': 1, 'endDate': 1}}", NULL, 5166305},
        {NULL,
         "{'$dateDiff': {'startDate': " DATE("2021-01-24T18:00:00Z") ", 'endDate': " DATE(
             "2021-01-25T18:00:00Z") ", 'unit': 'week', "
                                     "'startOfWeek': 'Someday'}}",
         NULL, 5439016},
    };
    EXPR_CHECK(cases);
}

#define TRUNC(date, rest) "{'$dateTrunc': {'date': " DATE(date) ", " rest "}}"

Test(expr_date, trunc)
{
    static const expr_case_t cases[] = {
        {NULL, TRUNC("2021-03-20T11:30:05.999Z", "'unit': 'hour'"), DATE("2021-03-20T11:00:00Z"),
         0},
        {NULL, TRUNC("2021-03-20T11:30:05.999Z", "'unit': 'day'"), DATE("2021-03-20T00:00:00Z"), 0},
        {NULL, TRUNC("2021-03-20T11:30:05.999Z", "'unit': 'week', 'startOfWeek': 'monday'"),
         DATE("2021-03-15T00:00:00Z"), 0},
        {NULL, TRUNC("2021-03-20T11:30:05.999Z", "'unit': 'week'"), DATE("2021-03-14T00:00:00Z"),
         0},
        {NULL, TRUNC("2021-03-20T11:30:05.999Z", "'unit': 'month'"), DATE("2021-03-01T00:00:00Z"),
         0},
        {NULL, TRUNC("2021-05-20T11:30:05.999Z", "'unit': 'quarter'"), DATE("2021-04-01T00:00:00Z"),
         0},
        {NULL, TRUNC("2021-05-20T11:30:05.999Z", "'unit': 'year'"), DATE("2021-01-01T00:00:00Z"),
         0},
        {NULL, TRUNC("2021-05-20T11:30:05.999Z", "'unit': 'month', 'binSize': 6"),
         DATE("2021-01-01T00:00:00Z"), 0},
        {NULL, TRUNC("2021-05-20T11:37:05.999Z", "'unit': 'minute', 'binSize': 15"),
         DATE("2021-05-20T11:30:00Z"), 0},
        {NULL, TRUNC("1999-12-31T23:59:59.999Z", "'unit': 'year', 'binSize': 3"),
         DATE("1997-01-01T00:00:00Z"), 0},
        {NULL, TRUNC("2021-07-20T03:30:00Z", "'unit': 'day', 'timezone': 'America/New_York'"),
         DATE("2021-07-19T04:00:00Z"), 0},
        {NULL, TRUNC("2021-07-20T03:40:00Z", "'unit': 'hour', 'timezone': '+05:30'"),
         DATE("2021-07-20T03:30:00Z"), 0},
        {NULL, "{'$dateTrunc': {'date': null, 'unit': 'day'}}", "null", 0},
        {NULL, TRUNC("2021-03-20T11:30:05.999Z", "'unit': 'day', 'binSize': null"), "null", 0},
        {NULL, TRUNC("2021-03-20T11:30:05.999Z", "'unit': 'day', 'binSize': 0"), NULL, 5439018},
        {NULL, TRUNC("2021-03-20T11:30:05.999Z", "'unit': 'day', 'binSize': 1.5"), NULL, 5439017},
        {NULL, TRUNC("2021-03-20T11:30:05.999Z", "'unit': 'days'"), NULL, 5439014},
        {NULL, TRUNC("2021-03-20T11:30:05.999Z", "'unit': 5"), NULL, 5439013},
        {NULL, TRUNC("2021-03-20T11:30:05.999Z", "'unit': 'week', 'startOfWeek': 5"), NULL,
         5439015},
        {NULL,
         TRUNC("2021-03-20T11:30:05.999Z", "'unit': 'year', 'binSize': " L(9223372036854775807)),
         NULL, 5439005},
        {NULL, "{'$dateTrunc': {'date': 5, 'unit': 'day'}}", NULL, 5439012},
        {NULL, "{'$dateTrunc': 5}", NULL, 5439007},
        {NULL, "{'$dateTrunc': {'x': 5}}", NULL, 5439008},
        {NULL, "{'$dateTrunc': {'unit': 'day'}}", NULL, 5439009},
        {NULL, "{'$dateTrunc': {'date': 5}}", NULL, 5439010},
    };
    EXPR_CHECK(cases);
}

Test(expr_date, calendar)
{
    /* Each day of 800 years, there and back, against plain counting. */
    int64_t year = 1600;
    int month = 1, day = 1, week_day = 6; /* 1600-01-01 was a Saturday */
    for (int64_t days = stor_days_from_civil(1600, 1, 1); year < 2400; days++) {
        int64_t y;
        int m, d;
        stor_civil_from_days(days, &y, &m, &d);
        if (y != year || m != month || d != day || stor_days_from_civil(year, month, day) != days ||
            stor_day_of_week(days) != week_day)
            cr_assert_fail("%lld-%d-%d", (long long)year, month, day);
        week_day = (week_day + 1) % 7;
        if (++day > stor_days_in_month(year, month)) {
            day = 1;
            if (++month > 12)
                month = 1, year++;
        }
    }
}

Test(expr_date, zones)
{
    static const struct {
        const char *zone;
        int64_t utc_s;
        int32_t offset_s;
    } cases[] = {
        {"Europe/Berlin", 1616893199, 3600}, /* a second before summer time 2021 */
        {"Europe/Berlin", 1616893200, 7200},
        {"Europe/Berlin", 4102444800, 3600}, /* year 2100, by the rule */
        {"Europe/Berlin", 4120000000, 7200},
        {"America/New_York", 1636264799, -14400},
        {"America/New_York", 1636264800, -18000},
        {"Asia/Kolkata", 1600000000, 19800},
        {"Australia/Lord_Howe", 1600000000, 37800},
        {"UTC", 0, 0},
        {"GMT", 5, 0},
        {"+14:00", 5, 50400},
        {"Etc/GMT+5", 5, -18000},
        {"America/Sao_Paulo", 4102444800, -10800},
    };
    for (size_t i = 0; i < VD_COUNT_OF(cases); i++) {
        stor_zone_t zone;
        cr_assert_eq(stor_zone_find(vd_slice_str(cases[i].zone), &zone, NULL), VD_OK, "%s",
                     cases[i].zone);
        int32_t got = stor_zone_offset(&zone, cases[i].utc_s * 1000);
        cr_expect_eq(got, cases[i].offset_s, "%s at %lld: %d", cases[i].zone,
                     (long long)cases[i].utc_s, got);
    }
    stor_zone_t zone;
    cr_assert_eq(stor_zone_find(VD_SLICE_LIT("America/New_York"), &zone, NULL), VD_OK);
    /* 2021-03-14 02:30 does not exist, 2021-11-07 01:30 is there twice. */
    cr_expect_eq(stor_zone_to_utc(&zone, INT64_C(1615689000000)), INT64_C(1615707000000));
    cr_expect_eq(stor_zone_to_utc(&zone, INT64_C(1636248600000)), INT64_C(1636263000000));
    for (int64_t utc = INT64_C(1577836800000); utc < INT64_C(1640995200000); utc += 3600000) {
        int64_t back = stor_zone_to_utc(&zone, stor_zone_to_local(&zone, utc));
        cr_expect(back == utc || back == utc - 3600000, "%lld", (long long)utc);
    }
    static const char *const bad[] = {"+1",   "+1:00",         "+0x:00",   "Europe/Berlin ",
                                      "/UTC", "posixrules/..", "zone.tab", "\xff"};
    for (size_t i = 0; i < VD_COUNT_OF(bad); i++)
        cr_expect_eq(stor_zone_find(vd_slice_str(bad[i]), &zone, NULL), -40485, "%s", bad[i]);
}
