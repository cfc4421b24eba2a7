# tests/clients: the list (../README.md) by Debian's ruby-mongo.
require 'mongo'
require 'stringio'
Mongo::Logger.logger.level = Logger::FATAL
include Mongo

$count = $failed = 0

def eq(got, want)
  raise "#{got.inspect} instead of #{want.inspect}" unless got == want
end

def fails(code, kind = Error::OperationFailure)
  begin
    yield
  rescue kind => e
    eq(e.respond_to?(:code) ? e.code : e.message[/\((\d+)\)/, 1].to_i, code) if code
    return e
  end
  raise "#{kind} expected"
end

def check(name)
  $count += 1
  skip = yield
  puts "ok #{$count} - #{name}#{" # SKIP #{skip}" if skip.is_a?(String)}"
rescue StandardError => e
  $failed += 1
  puts "not ok #{$count} - #{name}", "# #{e.class}: #{e.message}", *e.backtrace.first(4).map { |l| "# #{l}" }
ensure
  $stdout.flush
end

# Debian's driver knows no SCRAM-SHA-256, and can't read an URI with a name in it (its Ruby has no URI.decode any more): a certificate lets it in.
def connect(more = {})
  Client.new(["127.0.0.1:#{ENV['VD_PORT']}"], { replica_set: 'veddb', ssl: true, ssl_ca_cert: ENV['VD_CA'], database: 'clients_ruby', server_selection_timeout: 10,
                                                retry_writes: true, auth_mech: :mongodb_x509, auth_source: '$external', user: ENV['VD_X509_USER'],
                                                ssl_cert: ENV['VD_X509_CERT'], ssl_key: ENV['VD_X509_CERT'] }.merge(more))
end

# Names of later drivers.
Collection.class_eval do
  alias_method :count_documents, :count unless method_defined?(:count_documents)
  alias_method :estimated_document_count, :count unless method_defined?(:estimated_document_count)
end
CLIENT = connect
DB = CLIENT.database
C = CLIENT[:things]

def filled(n = 10)
  C.drop
  C.insert_many((0...n).map { |i| { _id: i, x: i % 3, s: 'aBc'[i % 3] * 2, tags: [i, i + 1] } })
  C
end

def ids(rows) = rows.map { |d| d['_id'] }

puts '1..31'
check('connect') do
  DB.drop
  eq(DB.command(ping: 1).first['ok'], 1)
  eq(DB.command(buildInfo: 1).first['versionArray'][0], 7)
end
check('wrong_password') do
  bad = connect(user: 'CN=somebody else')
  fails(nil, StandardError) { bad.database.command(ping: 1) }
  bad.close
end
check('insert') do
  C.drop
  eq(C.insert_one(_id: 1).inserted_id, 1)
  eq(C.insert_one(a: 1).inserted_id.class, BSON::ObjectId)
  eq(C.insert_many([{}, {}, {}]).inserted_count, 3)
end
check('find') do
  filled
  eq(ids(C.find({ x: 1 }, sort: { _id: -1 }, skip: 1, limit: 1)), [4])
  eq(C.find({ _id: 3 }, projection: { _id: 0, x: 1 }).first, { 'x' => 0 })
  C.indexes.create_one({ x: 1 })
  eq(C.find({ x: 1 }, hint: { x: 1 }).count, 3)
  fails(2) { C.find({}, hint: 'nothing_1').to_a }
  eq(C.find({ s: 'bb' }, collation: { locale: 'en', strength: 2 }).count, 3)
  eq(C.find({ s: /^A/i }).to_a.size, 4)
  fails(2) { C.find('$nothing' => 1).to_a }
end
check('update') do
  filled
  r = C.update_one({ _id: 1 }, { '$set' => { y: 1 }, '$inc' => { x: 5 } })
  eq([r.matched_count, r.modified_count, r.upserted_id], [1, 1, nil])
  eq(C.update_many({ x: { '$lt' => 3 } }, '$set' => { y: 2 }).modified_count, 9)
  eq(C.update_one({ _id: 77 }, { '$setOnInsert' => { n: 1 } }, upsert: true).upserted_id, 77)
  C.update_one({ _id: 2 }, { '$set' => { 'tags.$[t]' => 0 } }, array_filters: [{ t: { '$gt' => 2 } }])
  eq(C.find(_id: 2).first['tags'], [2, 0])
  fails(66) { C.update_one({ _id: 1 }, '$set' => { _id: 2 }) }
end
check('replace') do
  filled
  eq(C.replace_one({ _id: 1 }, { a: 1 }).modified_count, 1)
  eq(C.find(_id: 1).first, { '_id' => 1, 'a' => 1 })
  eq(C.replace_one({ _id: 100 }, { a: 1 }, upsert: true).upserted_id, 100)
end
check('delete') do
  filled
  eq([C.delete_one(x: 1).deleted_count, C.delete_many(x: 1).deleted_count], [1, 2])
  eq(C.delete_many({ s: 'AA' }, collation: { locale: 'en', strength: 2 }).deleted_count, 4)
end
check('find_and_modify') do
  filled
  eq(C.find_one_and_update({ x: 1 }, { '$inc' => { x: 10 } }, sort: { _id: -1 })['_id'], 7)
  eq(C.find_one_and_update({ _id: 7 }, { '$inc' => { x: 1 } }, return_document: :after, projection: { x: 1 }), { '_id' => 7, 'x' => 12 })
  eq(C.find_one_and_replace({ _id: 50 }, { a: 1 }, upsert: true), nil)
  eq(C.find_one_and_delete(_id: 50), { '_id' => 50, 'a' => 1 })
  eq(C.find_one_and_delete(_id: 50), nil)
end
check('bulk') do
  filled
  r = C.bulk_write([{ insert_one: { _id: 20 } }, { update_one: { filter: { _id: 1 }, update: { '$set' => { b: 1 } } } },
                    { update_many: { filter: { x: 0 }, update: { '$set' => { b: 2 } } } }, { replace_one: { filter: { _id: 30 }, replacement: { r: 1 }, upsert: true } },
                    { delete_one: { filter: { _id: 2 } } }, { delete_many: { filter: { x: 2 } } }])
  eq([r.inserted_count, r.matched_count, r.modified_count, r.deleted_count, r.upserted_ids], [1, 5, 5, 3, [30]])
end
check('bulk_errors') do
  filled(2)
  ops = [5, 1, 6, 1].map { |i| { insert_one: { _id: i } } } + [{ update_one: { filter: { _id: 0 }, update: { '$set' => { k: 1 } } } }]
  met = ->(e) { e.result['writeErrors'].map { |w| [w['index'], w['code']] } }
  eq(met.(fails(nil, Error::BulkWriteError) { C.bulk_write(ops) }), [[1, 11000]])
  C.delete_one(_id: 5)
  e = fails(nil, Error::BulkWriteError) { C.bulk_write(ops, ordered: false) }
  eq(met.(e), [[1, 11000], [3, 11000]])
  eq(C.find(_id: 0).first['k'], 1)
end
check('cursors') do
  filled(250)
  eq(ids(C.find({}, batch_size: 7, sort: { _id: 1 })), (0...250).to_a)
  eq(C.find({}, batch_size: 2).each.next['_id'], 0)
  eq(C.find({}, limit: -5).to_a.size, 5)
end
check('indexes') do
  filled
  C.indexes.create_many([{ key: { x: 1, s: -1 }, name: 'both' }, { key: { a: 1 }, unique: true, partial_filter_expression: { a: { '$exists' => true } } },
                         { key: { when: 1 }, expire_after: 3600 }])
  eq(C.indexes.map { |i| i['name'] }, %w[_id_ both a_1 when_1])
  C.insert_one(a: 1)
  fails(11000) { C.insert_one(a: 1) }
  fails(86) { C.indexes.create_one({ x: 1 }, name: 'both') }
  C.indexes.drop_one('both')
  fails(27) { C.indexes.drop_one('both') }
  C.indexes.drop_all
  eq(C.indexes.count, 1)
end
check('aggregation') do
  filled
  eq(C.aggregate([{ '$match' => { _id: { '$lt' => 9 } } }, { '$group' => { _id: '$x', n: { '$sum' => 1 } } }, { '$sort' => { _id: 1 } }]).to_a,
     [0, 1, 2].map { |i| { '_id' => i, 'n' => 3 } })
  CLIENT[:other].drop
  CLIENT[:other].insert_many((0..2).map { |i| { _id: i, name: i.to_s } })
  eq(C.aggregate([{ '$lookup' => { from: 'other', localField: 'x', foreignField: '_id', as: 'o' } }, { '$unwind' => '$o' }, { '$match' => { 'o.name' => '1' } }]).count, 3)
  eq(C.aggregate([{ '$facet' => { a: [{ '$count' => 'n' }], b: [{ '$limit' => 1 }, { '$project' => { x: 1 } }] } }]).first, { 'a' => [{ 'n' => 10 }], 'b' => [{ '_id' => 0, 'x' => 0 }] })
  eq(C.aggregate([], batch_size: 3, allow_disk_use: true).count, 10)
  fails(40324) { C.aggregate([{ '$nothing' => {} }]).to_a }
end
check('out') do
  filled
  C.aggregate([{ '$match' => { x: 1 } }, { '$out' => 'copied' }]).to_a
  eq(CLIENT[:copied].count_documents({}), 3)
  C.aggregate([{ '$set' => { m: 1 } }, { '$merge' => { into: 'copied' } }]).to_a
  eq(CLIENT[:copied].count_documents(m: 1), 10)
end
check('distinct_count') do
  filled
  eq(C.distinct(:x, _id: { '$gt' => 1 }).sort, [0, 1, 2])
  eq([C.count_documents(x: 1), C.estimated_document_count, C.count_documents({}, skip: 2, limit: 3)], [3, 10, 3])
end
check('explain') { eq(filled.find(_id: 3).explain['executionStats']['nReturned'], 1) }
check('sessions') do
  filled
  s = CLIENT.start_session(causal_consistency: true)
  C.insert_one({ _id: 99 }, session: s)
  eq(C.find({ _id: 99 }, session: s).first, { '_id' => 99 })
  raise 'no times' unless s.operation_time && s.cluster_time
  s.end_session
end
check('transactions') do
  next 'this driver has none' unless Session.method_defined?(:with_transaction)

  filled
  s = CLIENT.start_session
  s.with_transaction(read_concern: { level: :snapshot }, write_concern: { w: :majority }) do
    C.insert_one({ _id: 50 }, session: s)
    C.update_one({ _id: 1 }, { '$set' => { t: 1 } }, session: s)
    eq(C.find(_id: 50).first, nil)
  end
  eq(C.count_documents('$or' => [{ _id: 50 }, { t: 1 }]), 2)
  s.start_transaction
  C.update_one({ _id: 2 }, { '$set' => { t: 2 } }, session: s)
  o = CLIENT.start_session
  o.start_transaction
  eq(fails(112) { C.update_one({ _id: 2 }, { '$set' => { t: 3 } }, session: o) }.label?('TransientTransactionError'), true)
  s.abort_transaction
  eq(C.count_documents(t: 2), 0)
end
check('change_streams') do
  filled
  stream = C.watch([], full_document: 'updateLookup')
  it = stream.to_enum
  C.insert_one(_id: 40)
  C.update_one({ _id: 40 }, '$set' => { a: 1 })
  C.delete_one(_id: 40)
  first = it.next
  eq([first['operationType'], first['fullDocument']], ['insert', { '_id' => 40 }])
  again = C.watch([], resume_after: first['_id']).to_enum
  eq([again.next, again.next].map { |x| x['operationType'] }, %w[update delete])
end
check('gridfs') do
  fs = DB.fs
  data = Random.bytes(1_000_000)
  id = fs.upload_from_stream('file', StringIO.new(data), metadata: { a: 1 })
  out = StringIO.new(String.new)
  fs.download_to_stream(id, out)
  eq(out.string.b, data)
  fs.delete(id)
  fails(nil, Error::FileNotFound) { fs.download_to_stream(id, out) }
end
check('types') do
  values = { 'double' => 1.5, 'string' => "zß水🍌\0x", 'object' => { 'a' => { 'b' => [] } }, 'array' => [1, 'a', nil], 'id' => BSON::ObjectId.new,
             'yes' => true, 'null' => nil, 'int' => 7, 'long' => 2**62, 'decimal' => BSON::Decimal128.from_string('-1.50E+6000'),
             'old' => Time.at(-2_175_000_001, 877, :millisecond).utc, 'ts' => BSON::Timestamp.new(4_294_967_295, 7), 'min' => BSON::MinKey.new, 'max' => BSON::MaxKey.new,
             're' => BSON::Regexp::Raw.new('a.*b/', 'imx'), 'code' => BSON::Code.new('f()'), 'scoped' => BSON::CodeWithScope.new('f()', { 'x' => 1 }),
             'undefined' => BSON::Undefined.new }
  %i[generic function old uuid md5 user].each { |t| values["bin_#{t}"] = BSON::Binary.new('0123456789abcdef', t) }
  t = CLIENT[:types]
  t.drop
  t.insert_one({ '_id' => 1 }.merge(values))
  got = t.find(_id: 1).first
  values.each { |k, v| eq([k, got[k]], [k, v]) }
  eq(t.count_documents(old: { '$lt' => Time.at(0) }, undefined: { '$type' => 6 }), 1)
end
check('large') do
  t = CLIENT[:large]
  t.drop
  t.insert_one(_id: 1, b: 'x' * (15 << 20))
  eq(t.find.first['b'].size, 15 << 20)
  t.insert_many(Array.new(4) { { b: 'y' * (9 << 20) } })
  eq(t.find(_id: { '$ne' => 1 }).sum { |d| d['b'].size }, 36 << 20)
end
check('too_large') do
  fails(nil, StandardError) { CLIENT[:large].insert_one(b: 'x' * ((16 << 20) + 100)) }
  fails(17419) { CLIENT[:large].update_one({ _id: 1 }, '$set' => { c: 'x' * (2 << 20) }) }
end
check('duplicate_key') { raise 'text' unless fails(11000) { filled.insert_one(_id: 1) }.message.include?('index: _id_ dup key: { _id: 1 }') }
check('lists') do
  filled
  raise 'no database' unless CLIENT.database_names.include?('clients_ruby')
  DB.command(create: 'view', viewOn: 'things', pipeline: [{ '$match' => { x: 1 } }])
  eq(DB.list_collections.find { |c| c['name'] == 'view' }['type'], 'view')
  eq(CLIENT[:view].find.count, 3)
  fails(48) { CLIENT[:things, capped: true, size: 4096].create }
end
check('retry') do
  filled
  system(ENV['VD_KILL']) or raise 'kill'
  (100...120).each { |i| C.insert_one(_id: i) }
  eq(C.count_documents(_id: { '$gte' => 100 }), 20)
end
check('unacknowledged') do
  filled
  w0 = C.with(write: { w: 0 })
  eq(w0.insert_one(_id: 300).acknowledged?, false)
  w0.insert_one(_id: 1)
  200.times { break if C.count_documents(_id: 300) == 1 }
  eq(C.count_documents(_id: 300), 1)
end
check('read_preference') do
  filled
  eq(C.with(read: { mode: :secondary_preferred, tag_sets: [{ dc: 'x' }, {}] }).find.to_a.size, 10)
  bad = CLIENT.with(server_selection_timeout: 0.3, read: { mode: :secondary })
  fails(nil, StandardError) { bad[:things].find.first }
end
check('max_time') do
  filled
  slow = [{ '$match' => { _id: 1 } }, { '$project' => { a: { '$range' => [0, 1_000_000] } } }, { '$unwind' => '$a' }, { '$group' => { _id: nil, n: { '$sum' => '$a' } } }]
  fails(50) { C.aggregate(slow, max_time_ms: 1).to_a }
  eq(C.find({}, max_time_ms: 10_000).to_a.size, 10)
end
check('compression') do
  c = connect(compressors: ['zlib'])
  c[:squeezed].drop
  c[:squeezed].insert_many(Array.new(100) { { s: 'ab' * 5000 } })
  eq(c[:squeezed].find.count, 100)
  c.close
end
check('x509') do
  c = connect
  eq(c.use(:admin).database.command(connectionStatus: 1).first['authInfo']['authenticatedUsers'][0]['db'], '$external')
  c.close
end
exit($failed.zero?)
