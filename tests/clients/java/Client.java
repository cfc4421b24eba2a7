// tests/clients: the list (../README.md) by Debian's libmongodb-java.
import static com.mongodb.client.model.Filters.*;
import static com.mongodb.client.model.Projections.*;
import static com.mongodb.client.model.Sorts.*;
import static com.mongodb.client.model.Updates.*;

import com.mongodb.*;
import com.mongodb.client.*;
import com.mongodb.client.gridfs.GridFSBucket;
import com.mongodb.client.gridfs.GridFSBuckets;
import com.mongodb.client.gridfs.model.GridFSUploadOptions;
import com.mongodb.client.model.*;
import com.mongodb.client.model.changestream.ChangeStreamDocument;
import com.mongodb.client.model.changestream.FullDocument;
import com.mongodb.client.result.UpdateResult;
import com.mongodb.session.ClientSession;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.nio.file.*;
import java.security.*;
import java.security.cert.*;
import java.security.cert.Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.*;
import java.util.concurrent.TimeUnit;
import java.util.logging.*;
import javax.net.ssl.*;
import org.bson.*;
import org.bson.types.*;

public class Client {
    interface Work { Object run() throws Exception; }

    static int count = 0, failed = 0;
    static MongoClient client;
    static MongoDatabase db;
    static MongoCollection<Document> c;

    static void same(Object got, Object want) {
        if (!Objects.equals(got, want)) throw new RuntimeException(got + " instead of " + want);
    }

    static void is(boolean so, String what) {
        if (!so) throw new RuntimeException(what);
    }

    /** The error, which has that code; 0: any. */
    static MongoException fails(int code, Work work) throws Exception {
        try {
            work.run();
        } catch (MongoException e) {
            if (code != 0) same(e.getCode(), code);
            return e;
        }
        throw new RuntimeException("an error expected, " + code);
    }

    static void check(String name, Work work) {
        count++;
        try {
            Object skip = work.run();
            System.out.println("ok " + count + " - " + name + (skip instanceof String ? " # SKIP " + skip : ""));
        } catch (Throwable e) {
            failed++;
            System.out.println("not ok " + count + " - " + name + "\n# " + e.toString().replace("\n", "\n# "));
            Arrays.stream(e.getStackTrace()).limit(6).forEach(l -> System.out.println("# " + l));
        }
    }

    static byte[] pem(String variable, String kind) throws Exception {
        String text = Files.readString(Paths.get(System.getenv(variable)));
        int from = text.indexOf("-----BEGIN " + kind + "-----"), to = text.indexOf("-----END " + kind + "-----");
        return Base64.getMimeDecoder().decode(text.substring(from + kind.length() + 16, to));
    }

    static SSLContext tls() throws Exception {
        CertificateFactory factory = CertificateFactory.getInstance("X.509");
        KeyStore trusted = KeyStore.getInstance("PKCS12"), own = KeyStore.getInstance("PKCS12");
        trusted.load(null, null);
        trusted.setCertificateEntry("ca", factory.generateCertificate(Files.newInputStream(Paths.get(System.getenv("VD_CA")))));
        PKCS8EncodedKeySpec spec = new PKCS8EncodedKeySpec(pem("VD_X509_KEY", "PRIVATE KEY"));
        PrivateKey key;
        try {
            key = KeyFactory.getInstance("EC").generatePrivate(spec);
        } catch (GeneralSecurityException e) {
            key = KeyFactory.getInstance("RSA").generatePrivate(spec);
        }
        Certificate mine = factory.generateCertificate(new ByteArrayInputStream(pem("VD_X509_CERT", "CERTIFICATE")));
        own.load(null, null);
        own.setKeyEntry("own", key, new char[0], new Certificate[] {mine});
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        keys.init(own, new char[0]);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return context;
    }

    /** Debian's driver knows no SCRAM-SHA-256: a certificate lets it in. */
    static MongoClient connect(MongoClientOptions.Builder options, String user) throws Exception {
        options.sslEnabled(true).sslContext(tls()).requiredReplicaSetName("veddb").retryWrites(true);
        return new MongoClient(List.of(new ServerAddress("127.0.0.1", Integer.parseInt(System.getenv("VD_PORT")))),
                               MongoCredential.createMongoX509Credential(user), options.build());
    }

    static MongoClientOptions.Builder options() {
        return MongoClientOptions.builder().serverSelectionTimeout(10000);
    }

    static MongoCollection<Document> filled(int n) {
        List<Document> documents = new ArrayList<>();
        for (int i = 0; i < n; i++)
            documents.add(new Document("_id", i).append("x", i % 3).append("s", "aBc".substring(i % 3, i % 3 + 1).repeat(2)).append("tags", List.of(i, i + 1)));
        c.drop();
        c.insertMany(documents);
        return c;
    }

    static Document doc(String json) { return Document.parse(json); }

    static <T> List<T> all(MongoIterable<T> found) { return found.into(new ArrayList<>()); }

    static List<Object> ids(MongoIterable<Document> found) {
        List<Object> out = new ArrayList<>();
        for (Document d : found) out.add(d.get("_id"));
        return out;
    }

    static List<List<Integer>> met(MongoException e) {
        List<List<Integer>> out = new ArrayList<>();
        ((MongoBulkWriteException) e).getWriteErrors().forEach(w -> out.add(List.of(w.getIndex(), w.getCode())));
        return out;
    }

    static List<WriteModel<Document>> clashing() {
        List<WriteModel<Document>> ops = new ArrayList<>();
        for (int i : new int[] {5, 1, 6, 1}) ops.add(new InsertOneModel<>(new Document("_id", i)));
        ops.add(new UpdateOneModel<>(eq("_id", 0), set("k", 1)));
        return ops;
    }

    public static void main(String[] args) throws Exception {
        Logger.getLogger("org.mongodb").setLevel(Level.OFF);
        String user = System.getenv("VD_X509_USER");
        Collation primary = Collation.builder().locale("en").collationStrength(CollationStrength.SECONDARY).build();
        client = connect(options(), user);
        db = client.getDatabase("clients_java");
        c = db.getCollection("things");

        System.out.println("1..31");
        check("connect", () -> {
            db.drop();
            same(db.runCommand(new Document("ping", 1)).get("ok"), 1.0);
            same(db.runCommand(new Document("buildInfo", 1)).get("versionArray", List.class).get(0), 7);
            return null;
        });
        check("wrong_password", () -> {
            MongoClient bad = connect(options().serverSelectionTimeout(2000), "CN=somebody else");
            fails(0, () -> bad.getDatabase("x").runCommand(new Document("ping", 1)));
            bad.close();
            return null;
        });
        check("insert", () -> {
            c.drop();
            c.insertOne(new Document("_id", 1));
            Document made = new Document("a", 1);
            c.insertOne(made);
            same(made.get("_id").getClass(), ObjectId.class);
            c.insertMany(List.of(new Document(), new Document(), new Document()));
            same(c.count(), 5L);
            return null;
        });
        check("find", () -> {
            filled(10);
            same(ids(c.find(eq("x", 1)).sort(descending("_id")).skip(1).limit(1)), List.of(4));
            same(c.find(eq("_id", 3)).projection(fields(excludeId(), include("x"))).first(), new Document("x", 0));
            c.createIndex(Indexes.ascending("x"));
            same(all(c.find(eq("x", 1)).hint(new Document("x", 1))).size(), 3);
            fails(2, () -> all(c.find().hint(new Document("nothing", 1))));
            same(all(c.find(eq("s", "bb")).collation(primary)).size(), 3);
            same(all(c.find(regex("s", "^A", "i"))).size(), 4);
            same(ids(c.find().hint(new Document("_id", 1)).min(new Document("_id", 3)).max(new Document("_id", 5))), List.of(3, 4));
            fails(2, () -> all(c.find(new Document("$nothing", 1))));
            return null;
        });
        check("update", () -> {
            filled(10);
            UpdateResult r = c.updateOne(eq("_id", 1), combine(set("y", 1), inc("x", 5)));
            same(List.of(r.getMatchedCount(), r.getModifiedCount()), List.of(1L, 1L));
            same(c.updateMany(lt("x", 3), set("y", 2)).getModifiedCount(), 9L);
            same(c.updateOne(eq("_id", 77), setOnInsert("n", 1), new UpdateOptions().upsert(true)).getUpsertedId(), new BsonInt32(77));
            c.updateOne(eq("_id", 2), set("tags.$[t]", 0), new UpdateOptions().arrayFilters(List.of(gt("t", 2))));
            same(c.find(eq("_id", 2)).first().get("tags"), List.of(2, 0));
            fails(66, () -> c.updateOne(eq("_id", 1), set("_id", 2)));
            return null;
        });
        check("replace", () -> {
            filled(10);
            same(c.replaceOne(eq("_id", 1), new Document("a", 1)).getModifiedCount(), 1L);
            same(c.find(eq("_id", 1)).first(), new Document("_id", 1).append("a", 1));
            same(c.replaceOne(eq("_id", 100), new Document("a", 1), new UpdateOptions().upsert(true)).getUpsertedId(), new BsonInt32(100));
            return null;
        });
        check("delete", () -> {
            filled(10);
            same(List.of(c.deleteOne(eq("x", 1)).getDeletedCount(), c.deleteMany(eq("x", 1)).getDeletedCount()), List.of(1L, 2L));
            same(c.deleteMany(eq("s", "AA"), new DeleteOptions().collation(primary)).getDeletedCount(), 4L);
            return null;
        });
        check("find_and_modify", () -> {
            filled(10);
            same(c.findOneAndUpdate(eq("x", 1), inc("x", 10), new FindOneAndUpdateOptions().sort(descending("_id"))).get("_id"), 7);
            same(c.findOneAndUpdate(eq("_id", 7), inc("x", 1), new FindOneAndUpdateOptions().returnDocument(ReturnDocument.AFTER).projection(include("x"))),
               new Document("_id", 7).append("x", 12));
            same(c.findOneAndReplace(eq("_id", 50), new Document("a", 1), new FindOneAndReplaceOptions().upsert(true)), null);
            same(c.findOneAndDelete(eq("_id", 50)), new Document("_id", 50).append("a", 1));
            same(c.findOneAndDelete(eq("_id", 50)), null);
            return null;
        });
        check("bulk", () -> {
            filled(10);
            com.mongodb.bulk.BulkWriteResult r = c.bulkWrite(List.of(
                new InsertOneModel<>(new Document("_id", 20)), new UpdateOneModel<>(eq("_id", 1), set("b", 1)), new UpdateManyModel<>(eq("x", 0), set("b", 2)),
                new ReplaceOneModel<>(eq("_id", 30), new Document("r", 1), new UpdateOptions().upsert(true)), new DeleteOneModel<>(eq("_id", 2)),
                new DeleteManyModel<>(eq("x", 2))));
            same(List.of(r.getInsertedCount(), r.getMatchedCount(), r.getModifiedCount(), r.getDeletedCount()), List.of(1, 5, 5, 3));
            same(r.getUpserts().get(0).getId(), new BsonInt32(30));
            return null;
        });
        check("bulk_errors", () -> {
            filled(2);
            same(met(fails(0, () -> c.bulkWrite(clashing()))), List.of(List.of(1, 11000)));
            c.deleteOne(eq("_id", 5));
            same(met(fails(0, () -> c.bulkWrite(clashing(), new BulkWriteOptions().ordered(false)))), List.of(List.of(1, 11000), List.of(3, 11000)));
            same(c.find(eq("_id", 0)).first().get("k"), 1);
            return null;
        });
        check("cursors", () -> {
            filled(250);
            List<Object> want = new ArrayList<>();
            for (int i = 0; i < 250; i++) want.add(i);
            same(ids(c.find().batchSize(7).sort(ascending("_id"))), want);
            try (MongoCursor<Document> cursor = c.find().batchSize(2).iterator()) {
                same(cursor.next().get("_id"), 0);
            }
            same(all(c.find().limit(-5)).size(), 5);
            return null;
        });
        check("indexes", () -> {
            filled(10);
            c.createIndexes(List.of(new IndexModel(new Document("x", 1).append("s", -1), new IndexOptions().name("both")),
                                    new IndexModel(new Document("a", 1), new IndexOptions().unique(true).partialFilterExpression(exists("a"))),
                                    new IndexModel(new Document("when", 1), new IndexOptions().expireAfter(3600L, TimeUnit.SECONDS))));
            List<String> names = new ArrayList<>();
            for (Document i : c.listIndexes()) names.add(i.getString("name"));
            same(names, List.of("_id_", "both", "a_1", "when_1"));
            c.insertOne(new Document("a", 1));
            fails(11000, () -> { c.insertOne(new Document("a", 1)); return null; });
            fails(86, () -> c.createIndex(new Document("x", 1), new IndexOptions().name("both")));
            c.dropIndex("both");
            fails(27, () -> db.runCommand(new Document("dropIndexes", "things").append("index", "both")));
            c.dropIndexes();
            same(all(c.listIndexes()).size(), 1);
            return null;
        });
        check("aggregation", () -> {
            filled(10);
            same(all(c.aggregate(List.of(Aggregates.match(lt("_id", 9)), Aggregates.group("$x", Accumulators.sum("n", 1)), Aggregates.sort(ascending("_id"))))),
               List.of(doc("{_id: 0, n: 3}"), doc("{_id: 1, n: 3}"), doc("{_id: 2, n: 3}")));
            MongoCollection<Document> other = db.getCollection("other");
            other.drop();
            for (int i = 0; i < 3; i++) other.insertOne(new Document("_id", i).append("name", "" + i));
            same(all(c.aggregate(List.of(Aggregates.lookup("other", "x", "_id", "o"), Aggregates.unwind("$o"), Aggregates.match(eq("o.name", "1"))))).size(), 3);
            same(c.aggregate(List.of(doc("{$facet: {a: [{$count: 'n'}], b: [{$limit: 1}, {$project: {x: 1}}]}}"))).first(),
               doc("{a: [{n: 10}], b: [{_id: 0, x: 0}]}"));
            same(all(c.aggregate(List.<Document>of()).batchSize(3).allowDiskUse(true)).size(), 10);
            fails(40324, () -> all(c.aggregate(List.of(doc("{$nothing: {}}")))));
            return null;
        });
        check("out", () -> {
            filled(10);
            MongoCollection<Document> copied = db.getCollection("copied");
            c.aggregate(List.of(Aggregates.match(eq("x", 1)), Aggregates.out("copied"))).toCollection();
            same(copied.count(), 3L);
            all(c.aggregate(List.of(doc("{$set: {m: 1}}"), doc("{$merge: {into: 'copied'}}"))));
            same(copied.count(eq("m", 1)), 10L);
            return null;
        });
        check("distinct_count", () -> {
            filled(10);
            List<Integer> distinct = c.distinct("x", gt("_id", 1), Integer.class).into(new ArrayList<>());
            Collections.sort(distinct);
            same(distinct, List.of(0, 1, 2));
            same(List.of(c.count(eq("x", 1)), c.count(), c.count(new Document(), new CountOptions().skip(2).limit(3))), List.of(3L, 10L, 3L));
            return null;
        });
        check("explain", () -> {
            filled(10);
            Document e = db.runCommand(new Document("explain", new Document("find", "things").append("filter", new Document("_id", 3))));
            same(e.get("executionStats", Document.class).get("nReturned"), 1);
            return null;
        });
        check("sessions", () -> {
            filled(10);
            ClientSession s = client.startSession(ClientSessionOptions.builder().causallyConsistent(true).build());
            c.insertOne(s, new Document("_id", 99));
            same(c.find(s, eq("_id", 99)).first(), new Document("_id", 99));
            is(s.getOperationTime() != null && s.getClusterTime() != null, "no times");
            s.close();
            return null;
        });
        check("transactions", () -> "this driver has none");
        check("change_streams", () -> {
            filled(10);
            MongoCursor<ChangeStreamDocument<Document>> stream = c.watch().fullDocument(FullDocument.UPDATE_LOOKUP).iterator();
            c.insertOne(new Document("_id", 40));
            c.updateOne(eq("_id", 40), set("a", 1));
            c.deleteOne(eq("_id", 40));
            ChangeStreamDocument<Document> first = stream.next();
            same(first.getOperationType().getValue() + first.getFullDocument(), "insert" + new Document("_id", 40));
            MongoCursor<ChangeStreamDocument<Document>> again = c.watch().resumeAfter(first.getResumeToken()).iterator();
            same(again.next().getOperationType().getValue() + again.next().getOperationType().getValue(), "updatedelete");
            stream.close();
            again.close();
            return null;
        });
        check("gridfs", () -> {
            GridFSBucket fs = GridFSBuckets.create(db);
            byte[] data = new byte[1000000];
            new Random().nextBytes(data);
            ObjectId id = fs.uploadFromStream("file", new ByteArrayInputStream(data), new GridFSUploadOptions().metadata(new Document("a", 1)));
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            fs.downloadToStream(id, out);
            is(Arrays.equals(out.toByteArray(), data), "another file");
            fs.delete(id);
            fails(0, () -> { fs.downloadToStream(id, out); return null; });
            return null;
        });
        check("types", () -> {
            Document values = new Document("_id", 1).append("double", 1.5).append("string", "zß水🍌\0x").append("object", doc("{a: {b: []}}"))
                .append("array", Arrays.asList(1, "a", null)).append("id", new ObjectId()).append("yes", true).append("null", null).append("int", 7)
                .append("long", 1L << 62).append("decimal", Decimal128.parse("-1.50E+6000")).append("old", new Date(-2175000000123L))
                .append("ts", new BsonTimestamp((int) 4294967295L, 7)).append("min", new MinKey()).append("max", new MaxKey())
                .append("re", new BsonRegularExpression("a.*b/", "imsx")).append("code", new Code("f()"))
                .append("scoped", new CodeWithScope("f()", new Document("x", 1))).append("symbol", new Symbol("y")).append("undefined", new BsonUndefined());
            for (byte type : new byte[] {0, 1, 3, 4, 5, (byte) 0x80})
                values.append("bin_" + (type & 255), new Binary(type, "0123456789abcdef".getBytes()));
            MongoCollection<BsonDocument> t = db.getCollection("types", BsonDocument.class);
            BsonDocument sent = values.toBsonDocument(BsonDocument.class, MongoClient.getDefaultCodecRegistry());
            t.drop();
            t.insertOne(sent);
            same(t.find(eq("_id", 1)).first(), sent);
            same(t.count(and(lt("old", new Date(0)), type("undefined", "undefined"))), 1L);
            return null;
        });
        check("large", () -> {
            MongoCollection<Document> t = db.getCollection("large");
            t.drop();
            t.insertOne(new Document("_id", 1).append("b", "x".repeat(15 << 20)));
            same(t.find().first().getString("b").length(), 15 << 20);
            List<Document> more = new ArrayList<>();
            for (int i = 0; i < 4; i++) more.add(new Document("b", "y".repeat(9 << 20)));
            t.insertMany(more);
            int bytes = 0;
            for (Document d : t.find(ne("_id", 1))) bytes += d.getString("b").length();
            same(bytes, 36 << 20);
            return null;
        });
        check("too_large", () -> {
            MongoCollection<Document> t = db.getCollection("large");
            try {
                t.insertOne(new Document("b", "x".repeat((16 << 20) + 100)));
                is(false, "it was taken");
            } catch (BsonSerializationException e) { /* the driver's own look */
            }
            fails(17419, () -> t.updateOne(eq("_id", 1), set("c", "x".repeat(2 << 20))));
            return null;
        });
        check("duplicate_key", () -> {
            filled(10);
            String text = fails(11000, () -> { c.insertOne(new Document("_id", 1)); return null; }).getMessage();
            is(text.contains("index: _id_ dup key: { _id: 1 }"), text);
            return null;
        });
        check("lists", () -> {
            filled(10);
            is(client.listDatabaseNames().into(new ArrayList<>()).contains("clients_java"), "no database");
            db.createView("view", "things", List.of(Aggregates.match(eq("x", 1))));
            same(db.listCollections().filter(eq("name", "view")).first().get("type"), "view");
            same(all(db.getCollection("view").find()).size(), 3);
            fails(48, () -> { db.createCollection("things", new CreateCollectionOptions().capped(true).sizeInBytes(4096)); return null; });
            return null;
        });
        check("retry", () -> {
            filled(10);
            same(new ProcessBuilder("sh", "-c", System.getenv("VD_KILL")).inheritIO().start().waitFor(), 0);
            for (int i = 100; i < 120; i++) c.insertOne(new Document("_id", i));
            same(c.count(gte("_id", 100)), 20L);
            return null;
        });
        check("unacknowledged", () -> {
            filled(10);
            MongoCollection<Document> w0 = c.withWriteConcern(WriteConcern.UNACKNOWLEDGED);
            w0.insertOne(new Document("_id", 300));
            w0.insertOne(new Document("_id", 1));
            for (int i = 0; i < 200 && c.count(eq("_id", 300)) == 0; i++) Thread.sleep(5);
            same(c.count(eq("_id", 300)), 1L);
            return null;
        });
        check("read_preference", () -> {
            filled(10);
            same(all(c.withReadPreference(ReadPreference.secondaryPreferred(List.of(new TagSet(new Tag("dc", "x")), new TagSet()))).find()).size(), 10);
            MongoClient bad = connect(options().serverSelectionTimeout(300), user);
            fails(0, () -> bad.getDatabase("clients_java").getCollection("things").withReadPreference(ReadPreference.secondary()).find().first());
            bad.close();
            return null;
        });
        check("max_time", () -> {
            filled(10);
            fails(50, () -> all(c.aggregate(List.of(doc("{$match: {_id: 1}}"), doc("{$project: {a: {$range: [0, 1000000]}}}"), doc("{$unwind: '$a'}"),
                                                    doc("{$group: {_id: null, n: {$sum: '$a'}}}"))).maxTime(1, TimeUnit.MILLISECONDS)));
            same(all(c.find().maxTime(10, TimeUnit.SECONDS)).size(), 10);
            return null;
        });
        check("compression", () -> {
            MongoClient zlib = connect(options().compressorList(List.of(MongoCompressor.createZlibCompressor())), user);
            MongoCollection<Document> squeezed = zlib.getDatabase("clients_java").getCollection("squeezed");
            List<Document> many = new ArrayList<>();
            for (int i = 0; i < 100; i++) many.add(new Document("s", "ab".repeat(5000)));
            squeezed.drop();
            squeezed.insertMany(many);
            same(all(squeezed.find()).size(), 100);
            zlib.close();
            return null;
        });
        check("x509", () -> {
            Document status = client.getDatabase("admin").runCommand(new Document("connectionStatus", 1));
            same(((Document) status.get("authInfo", Document.class).get("authenticatedUsers", List.class).get(0)).get("db"), "$external");
            return null;
        });
        client.close();
        System.exit(failed == 0 ? 0 : 1);
    }
}
