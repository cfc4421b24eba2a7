#!/usr/bin/perl
# tests/clients: the list (../README.md) by Debian's libmongodb-perl.
use strict;
use warnings;
use utf8;
use boolean;
use BSON::Types ':all';
use MongoDB;
use Safe::Isa;
use Tie::IxHash;

my $client = MongoDB::MongoClient->new(host => $ENV{VD_URI}, ssl => {SSL_ca_file => $ENV{VD_CA}}, auth_mechanism => 'SCRAM-SHA-256',
    server_selection_timeout_ms => 30000);
my $db = $client->db('clients_perl');
my $c = $db->coll('things');
my ($count, $failed) = (0, 0);

sub text { my $v = shift; JSON::PP->new->canonical->allow_nonref->allow_blessed->convert_blessed->encode($v) }
sub same { my ($got, $want) = @_; text($got) eq text($want) or die text($got) . ' instead of ' . text($want) }
sub fails {
    my ($code, $body) = @_;
    eval { $body->(); 1 } and die 'an error was expected';
    my $e = $@;
    same($e->code + 0, $code) if defined $code && $e->$_can('code');
    return $e;
}
sub check {
    my ($name, $body) = @_;
    my $skip;
    $count++;
    if (eval { $skip = $body->(); 1 }) { print "ok $count - $name", ($skip && !ref $skip && $skip =~ /^skip (.*)/ ? " # SKIP $1" : ''), "\n" }
    else {
        $failed++;
        my $e = ref $@ && $@->$_can('message') ? ref($@) . ': ' . $@->message : "$@";
        $e =~ s/\n/\n# /g;
        print "not ok $count - $name\n# $e\n";
    }
}
sub filled {
    my $n = shift // 10;
    $c->drop;
    $c->insert_many([map { {_id => $_, x => $_ % 3, s => substr('aBc', $_ % 3, 1) x 2, tags => [$_, $_ + 1]} } 0 .. $n - 1]);
    return $c;
}
sub ordered { Tie::IxHash->new(@_) }
sub command { $db->run_command([@_]) }
use JSON::PP ();
$| = 1;
binmode STDOUT, ':utf8';

my @list = (
connect => sub {
    $db->drop;
    same(command(ping => 1)->{ok} + 0, 1);
    same(command(buildInfo => 1)->{versionArray}[0] + 0, 7);
},
wrong_password => sub {
    my $bad = MongoDB::MongoClient->new(host => $ENV{VD_URI} =~ s/:[^:@]*@/:wrong@/r, ssl => {SSL_ca_file => $ENV{VD_CA}}, server_selection_timeout_ms => 2000);
    fails(undef, sub { $bad->db('admin')->run_command([ping => 1]) }) =~ /auth/i or die 'no word of it';
},
insert => sub {
    $c->drop;
    same($c->insert_one({_id => 1})->inserted_id, 1);
    same(scalar(@{$c->insert_many([{}, {}, {}])->inserted}), 3);
},
find => sub {
    filled;
    same([map { $_->{_id} } $c->find({x => 1}, {sort => {_id => -1}, skip => 1, limit => 1})->all], [4]);
    same($c->find_one({_id => 3}, {_id => 0, x => 1}), {x => 0});
    $c->indexes->create_one([x => 1]);
    same(scalar($c->find({x => 1}, {hint => 'x_1'})->all), 3);
    fails(2, sub { $c->find({}, {hint => 'nothing_1'})->all });
    same(scalar($c->find({s => 'bb'}, {collation => {locale => 'en', strength => 2}})->all), 3);
    same(scalar($c->find({s => qr/^A/i})->all), 4);
    fails(2, sub { $c->find({'$nothing' => 1})->all });
},
update => sub {
    filled;
    my $r = $c->update_one({_id => 1}, {'$set' => {y => 1}, '$inc' => {x => 5}});
    same([$r->matched_count, $r->modified_count], [1, 1]);
    same($c->update_many({x => {'$lt' => 3}}, {'$set' => {y => 2}})->modified_count, 9);
    same($c->update_one({_id => 77}, {'$setOnInsert' => {n => 1}}, {upsert => 1})->upserted_id, 77);
    $c->update_one({_id => 2}, {'$set' => {'tags.$[t]' => 0}}, {arrayFilters => [{t => {'$gt' => 2}}]});
    same($c->find_one({_id => 2})->{tags}, [2, 0]);
    fails(66, sub { $c->update_one({_id => 1}, {'$set' => {_id => 2}}) });
},
replace => sub {
    filled;
    same($c->replace_one({_id => 1}, {a => 1})->modified_count, 1);
    same($c->find_one({_id => 1}), {_id => 1, a => 1});
    same($c->replace_one({_id => 100}, {a => 1}, {upsert => 1})->upserted_id, 100);
},
delete => sub {
    filled;
    same([$c->delete_one({x => 1})->deleted_count, $c->delete_many({x => 1})->deleted_count], [1, 2]);
    same($c->delete_many({s => 'AA'}, {collation => {locale => 'en', strength => 2}})->deleted_count, 4);
},
find_and_modify => sub {
    filled;
    same($c->find_one_and_update({x => 1}, {'$inc' => {x => 10}}, {sort => {_id => -1}})->{_id}, 7);
    same($c->find_one_and_update({_id => 7}, {'$inc' => {x => 1}}, {returnDocument => 'after', projection => {x => 1}}), {_id => 7, x => 12});
    same($c->find_one_and_replace({_id => 50}, {a => 1}, {upsert => 1}), undef);
    same($c->find_one_and_delete({_id => 50}), {_id => 50, a => 1});
    same($c->find_one_and_delete({_id => 50}), undef);
},
bulk => sub {
    filled;
    my $r = $c->bulk_write([insert_one => [{_id => 20}], update_one => [{_id => 1}, {'$set' => {b => 1}}], update_many => [{x => 0}, {'$set' => {b => 2}}],
        replace_one => [{_id => 30}, {r => 1}, {upsert => 1}], delete_one => [{_id => 2}], delete_many => [{x => 2}]]);
    same([map { $r->$_ } qw(inserted_count matched_count modified_count deleted_count)], [1, 5, 5, 3]);
    same($r->upserted, [{index => 3, _id => 30}]);
},
bulk_errors => sub {
    filled(2);
    my @ops = ((map { (insert_one => [{_id => $_}]) } 5, 1, 6, 1), update_one => [{_id => 0}, {'$set' => {k => 1}}]);
    my $met = sub { [map { [$_->{index}, $_->{code}] } @{$_[0]->result->write_errors}] };
    same($met->(fails(undef, sub { $c->bulk_write(\@ops) })), [[1, 11000]]);
    $c->delete_one({_id => 5});
    my $e = fails(undef, sub { $c->bulk_write(\@ops, {ordered => 0}) });
    same($met->($e), [[1, 11000], [3, 11000]]);
    same($e->result->modified_count, 1);
},
cursors => sub {
    filled(250);
    same([map { $_->{_id} } $c->find({}, {batchSize => 7, sort => {_id => 1}})->all], [0 .. 249]);
    same(scalar($c->find({}, {limit => -5})->all), 5);
    my $cursor = $c->find({}, {batchSize => 2})->result;
    same($cursor->next->{_id}, 0);
    undef $cursor;
},
indexes => sub {
    filled;
    my $i = $c->indexes;
    same([$i->create_many({keys => [x => 1, s => -1], options => {name => 'both'}}, {keys => [a => 1], options => {unique => 1, partialFilterExpression => {a => {'$exists' => true}}}},
        {keys => [when => 1], options => {expireAfterSeconds => 3600}})], [qw(both a_1 when_1)]);
    same([map { $_->{name} } $i->list->all], [qw(_id_ both a_1 when_1)]);
    $c->insert_one({a => 1});
    fails(11000, sub { $c->insert_one({a => 1}) })->$_isa('MongoDB::DuplicateKeyError') or die 'kind';
    fails(86, sub { $i->create_one([x => 1], {name => 'both'}) });
    $i->drop_one('both');
    $i->drop_one('both'); # this driver takes error 27 for done
    $i->drop_all;
    same(scalar($i->list->all), 1);
},
aggregation => sub {
    filled;
    same([$c->aggregate([{'$match' => {_id => {'$lt' => 9}}}, {'$group' => {_id => '$x', n => {'$sum' => 1}}}, {'$sort' => {_id => 1}}])->all], [map { {_id => $_, n => 3} } 0 .. 2]);
    my $o = $db->coll('other');
    $o->drop;
    $o->insert_many([map { {_id => $_, name => "n$_"} } 0 .. 2]);
    same(scalar($c->aggregate([{'$lookup' => {from => 'other', localField => 'x', foreignField => '_id', as => 'o'}}, {'$unwind' => '$o'}, {'$match' => {'o.name' => 'n1'}}])->all), 3);
    same($c->aggregate([{'$facet' => {a => [{'$count' => 'n'}], b => [{'$limit' => 1}, {'$project' => {x => 1}}]}}])->next, {a => [{n => 10}], b => [{_id => 0, x => 0}]});
    same(scalar($c->aggregate([], {batchSize => 3, allowDiskUse => 1})->all), 10);
    fails(40324, sub { $c->aggregate([{'$nothing' => {}}])->all });
},
out => sub {
    filled;
    $c->aggregate([{'$match' => {x => 1}}, {'$out' => 'copied'}]);
    same($db->coll('copied')->count_documents({}), 3);
    $c->aggregate([{'$set' => {m => 1}}, {'$merge' => {into => 'copied'}}]);
    same($db->coll('copied')->count_documents({m => 1}), 10);
},
distinct_count => sub {
    filled;
    same([sort $c->distinct('x', {_id => {'$gt' => 1}})->all], [0, 1, 2]);
    same([$c->count_documents({x => 1}), $c->estimated_document_count, $c->count_documents({}, {skip => 2, limit => 3})], [3, 10, 3]);
},
explain => sub { same(filled->find({_id => 3})->explain->{executionStats}{nReturned}, 1) },
sessions => sub {
    filled;
    my $s = $client->start_session({causalConsistency => 1});
    $c->insert_one({_id => 99}, {session => $s});
    same($c->find_one({_id => 99}, undef, {session => $s}), {_id => 99});
    $s->operation_time && $s->cluster_time or die 'no times';
},
transactions => sub {
    filled;
    my $s = $client->start_session;
    $s->start_transaction({readConcern => {level => 'snapshot'}, writeConcern => {w => 'majority'}});
    $c->insert_one({_id => 50}, {session => $s});
    $c->update_one({_id => 1}, {'$set' => {t => 1}}, {session => $s});
    same($c->find_one({_id => 50}), undef);
    $s->commit_transaction;
    $s->commit_transaction;
    same($c->count_documents({'$or' => [{_id => 50}, {t => 1}]}), 2);
    $s->start_transaction;
    $c->update_one({_id => 2}, {'$set' => {t => 2}}, {session => $s});
    my $o = $client->start_session;
    $o->start_transaction;
    fails(112, sub { $c->update_one({_id => 2}, {'$set' => {t => 3}}, {session => $o}) })->has_error_label('TransientTransactionError') or die 'label';
    $s->abort_transaction;
    same($c->count_documents({t => 2}), 0);
},
change_streams => sub {
    filled;
    my $wait = sub { my $w = shift; for (1 .. 100) { my $e = $w->next; return $e if $e } die 'no event' };
    my $w = $c->watch([], {fullDocument => 'updateLookup'});
    $c->insert_one({_id => 40});
    $c->update_one({_id => 40}, {'$set' => {a => 1}});
    $c->delete_one({_id => 40});
    my $first = $wait->($w);
    same([$first->{operationType}, $first->{fullDocument}], ['insert', {_id => 40}]);
    my $again = $c->watch([], {resumeAfter => $first->{_id}});
    same([map { $wait->($again)->{operationType} } 1, 2], [qw(update delete)]);
},
gridfs => sub {
    my $g = $db->gfs;
    my $data = join '', map { chr rand 256 } 1 .. 1000000;
    open my $in, '<', \$data or die;
    my $id = $g->upload_from_stream('file', $in, {metadata => {a => 1}});
    open my $out, '>', \my $got or die;
    $g->download_to_stream($id, $out);
    $got eq $data or die 'other bytes';
    $g->delete($id);
    fails(undef, sub { $g->open_download_stream($id) });
},
types => sub {
    my @values = (double => bson_double(1.5), string => "zß水🍌\0x", object => {a => {b => []}}, array => [1, 'a', undef], id => bson_oid(), yes => true, null => undef, int => bson_int32(7),
        long => bson_int64('4611686018427387904'), decimal => bson_decimal128('-1.50E+6000'), dnan => bson_decimal128('NaN'), old => bson_time(-2175000000.123), ts => bson_timestamp(4294967295, 7),
        min => bson_minkey(), max => bson_maxkey(), re => bson_regex('a.*b/', 'imx'), code => bson_code('f()'), scoped => bson_code('f()', {x => 1}),
        map { ("bin$_" => bson_bytes('0123456789abcdef', $_)) } 0, 1, 3, 4, 5, 128, 255);
    my $t = $db->coll('types');
    $t->drop;
    $t->insert_one([_id => 1, @values]);
    my $codec = BSON->new(wrap_numbers => 1, wrap_strings => 1, ordered => 1);
    my $got = $t->with_codec(wrap_numbers => 1, wrap_strings => 1, ordered => 1)->find_one({_id => 1});
    $codec->encode_one($got) eq $codec->encode_one([_id => 1, @values]) or die 'other bytes';
    same($t->count_documents({old => {'$lt' => bson_time(0)}, decimal => {'$type' => 'decimal'}}), 1);
},
large => sub {
    my $t = $db->coll('large');
    $t->drop;
    $t->insert_one({_id => 1, b => 'x' x (15 << 20)});
    same(length $t->find_one->{b}, 15 << 20);
    $t->insert_many([map { {b => 'y' x (9 << 20)} } 1 .. 6]);
    my $sum = 0;
    $sum += length $_->{b} for $t->find({_id => {'$ne' => 1}})->all;
    same($sum, 54 << 20);
},
too_large => sub {
    fails(undef, sub { $db->coll('large')->insert_one({b => 'x' x ((16 << 20) + 100)}) });
    fails(17419, sub { $db->coll('large')->update_one({_id => 1}, {'$set' => {c => 'x' x (2 << 20)}}) });
},
duplicate_key => sub { fails(11000, sub { filled->insert_one({_id => 1}) })->message =~ /index: _id_ dup key: \{ _id: 1 \}/ or die 'text' },
lists => sub {
    filled;
    grep { $_ eq 'clients_perl' } $client->database_names or die 'no database';
    command(create => 'view', viewOn => 'things', pipeline => [{'$match' => {x => 1}}]);
    same([map { $_->{type} } $db->list_collections({name => 'view'})->all], ['view']);
    same(scalar($db->coll('view')->find->all), 3);
    fails(48, sub { command(create => 'things', capped => true, size => 4096) });
},
retry => sub {
    filled;
    system($ENV{VD_KILL}) == 0 or die 'kill';
    $c->insert_one({_id => $_}) for 100 .. 119;
    same($c->count_documents({_id => {'$gte' => 100}}), 20);
},
unacknowledged => sub { 'skip this driver sends OP_INSERT, which no server takes since 5.1' },
read_preference => sub {
    filled;
    same(scalar($c->clone(read_preference => MongoDB::ReadPreference->new(mode => 'secondaryPreferred', tag_sets => [{dc => 'x'}, {}]))->find->all), 10);
    my $short = MongoDB::MongoClient->new(host => $ENV{VD_URI}, ssl => {SSL_ca_file => $ENV{VD_CA}}, server_selection_timeout_ms => 300);
    fails(undef, sub { $short->db('clients_perl')->coll('things', {read_preference => 'secondary'})->find->all })->$_isa('MongoDB::SelectionError') or die "kind: $@";
},
max_time => sub {
    filled;
    my $slow = [{'$match' => {_id => 1}}, {'$project' => {a => {'$range' => [0, 1000000]}}}, {'$unwind' => '$a'}, {'$group' => {_id => undef, n => {'$sum' => '$a'}}}];
    fails(50, sub { $c->aggregate($slow, {maxTimeMS => 1})->all });
    same(scalar($c->find({}, {maxTimeMS => 10000})->all), 10);
},
compression => sub {
    my $z = MongoDB::MongoClient->new(host => "$ENV{VD_URI}&compressors=zlib", ssl => {SSL_ca_file => $ENV{VD_CA}})->db('clients_perl')->coll('squeezed');
    $z->drop;
    $z->insert_many([map { {s => 'ab' x 5000} } 1 .. 100]);
    same(scalar($z->find->all), 100);
},
x509 => sub {
    my $x = MongoDB::MongoClient->new(host => "mongodb://127.0.0.1:$ENV{VD_PORT}/?replicaSet=veddb", ssl => {SSL_ca_file => $ENV{VD_CA}, SSL_cert_file => $ENV{VD_X509_CERT}, SSL_key_file => $ENV{VD_X509_CERT}},
        auth_mechanism => 'MONGODB-X509', username => $ENV{VD_X509_USER});
    same($x->db('admin')->run_command([connectionStatus => 1])->{authInfo}{authenticatedUsers}[0]{db}, '$external');
},
);
print '1..', @list / 2, "\n";
while (my ($name, $body) = splice @list, 0, 2) { check($name, $body) }
exit($failed ? 1 : 0);
