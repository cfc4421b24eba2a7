// tests/clients: the list (../README.md) by Debian's golang-mongodb-mongo-driver-dev.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/gridfs"
	"go.mongodb.org/mongo-driver/mongo/options"
	"go.mongodb.org/mongo-driver/mongo/readconcern"
	"go.mongodb.org/mongo-driver/mongo/readpref"
	"go.mongodb.org/mongo-driver/mongo/writeconcern"
	"go.mongodb.org/mongo-driver/tag"
)

type (
	M = bson.M
	D = bson.D
	A = bson.A
)

var (
	ctx    = context.Background()
	uri    = os.Getenv("VD_URI")
	client *mongo.Client
	db     *mongo.Database
	c      *mongo.Collection
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func one[T any](v T, err error) T {
	must(err)
	return v
}

func eq(got, want any) {
	if fmt.Sprint(got) != fmt.Sprint(want) {
		panic(fmt.Sprintf("%v instead of %v", got, want))
	}
}

func fails(code int, err error) error {
	if err == nil {
		panic("an error was expected")
	}
	var s mongo.ServerError
	if code != 0 && (!errors.As(err, &s) || !s.HasErrorCode(code)) {
		panic(fmt.Sprintf("code %d was expected: %v", code, err))
	}
	return err
}

func dial(uri string, more ...*options.ClientOptions) *mongo.Client {
	return one(mongo.Connect(ctx, append([]*options.ClientOptions{options.Client().ApplyURI(uri)}, more...)...))
}

func filled(n int) {
	must(c.Drop(ctx))
	var docs []any
	for i := 0; i < n; i++ {
		docs = append(docs, M{"_id": i, "x": i % 3, "s": strings.Repeat("aBc"[i%3:i%3+1], 2), "tags": A{i, i + 1}})
	}
	one(c.InsertMany(ctx, docs))
}

func find(filter any, o ...*options.FindOptions) []M {
	var out []M
	must(one(c.Find(ctx, filter, o...)).All(ctx, &out))
	return out
}

func aggregate(pipeline any, o ...*options.AggregateOptions) ([]M, error) {
	var out []M
	cursor, err := c.Aggregate(ctx, pipeline, o...)
	if err == nil {
		err = cursor.All(ctx, &out)
	}
	return out, err
}

func number(filter any, o ...*options.CountOptions) int64 { return one(c.CountDocuments(ctx, filter, o...)) }

var list = []struct {
	name string
	body func() string
}{
	{"connect", func() string {
		must(db.Drop(ctx))
		must(client.Ping(ctx, nil))
		return ""
	}},
	{"wrong_password", func() string {
		bad := dial(uri, options.Client().SetAuth(options.Credential{Username: "admin", Password: "wrong", AuthMechanism: "SCRAM-SHA-256"}))
		defer bad.Disconnect(ctx)
		if !strings.Contains(fails(0, bad.Ping(ctx, nil)).Error(), "AuthenticationFailed") {
			panic("another error")
		}
		return ""
	}},
	{"insert", func() string {
		must(c.Drop(ctx))
		eq(one(c.InsertOne(ctx, M{"_id": 1})).InsertedID, 1)
		eq(len(one(c.InsertMany(ctx, A{M{}, M{}, M{}})).InsertedIDs), 3)
		return ""
	}},
	{"find", func() string {
		filled(10)
		eq(find(M{"x": 1}, options.Find().SetSort(M{"_id": -1}).SetSkip(1).SetLimit(1))[0]["_id"], 4)
		eq(find(M{"_id": 3}, options.Find().SetProjection(M{"_id": 0, "x": 1})), []M{{"x": 0}})
		one(c.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: M{"x": 1}}))
		eq(len(find(M{"x": 1}, options.Find().SetHint("x_1"))), 3)
		eq(len(find(M{"s": "bb"}, options.Find().SetCollation(&options.Collation{Locale: "en", Strength: 2}))), 3)
		eq(find(M{}, options.Find().SetMin(M{"_id": 8}).SetMax(M{"_id": 9}).SetHint(M{"_id": 1}))[0]["_id"], 8)
		_, err := c.Find(ctx, M{"$nothing": 1})
		fails(2, err)
		return ""
	}},
	{"update", func() string {
		filled(10)
		r := one(c.UpdateOne(ctx, M{"_id": 1}, M{"$set": M{"y": 1}, "$inc": M{"x": 5}}))
		eq([]int64{r.MatchedCount, r.ModifiedCount, r.UpsertedCount}, []int64{1, 1, 0})
		eq(one(c.UpdateMany(ctx, M{"x": M{"$lt": 3}}, M{"$set": M{"y": 2}})).ModifiedCount, 9)
		eq(one(c.UpdateOne(ctx, M{"_id": 77}, M{"$setOnInsert": M{"n": 1}}, options.Update().SetUpsert(true))).UpsertedID, 77)
		eq(one(c.UpdateOne(ctx, M{"_id": 1}, A{M{"$set": M{"z": M{"$add": A{"$x", "$y"}}}}})).ModifiedCount, 1)
		one(c.UpdateOne(ctx, M{"_id": 2}, M{"$set": M{"tags.$[t]": 0}}, options.Update().SetArrayFilters(options.ArrayFilters{Filters: A{M{"t": M{"$gt": 2}}}})))
		eq(find(M{"_id": 2})[0]["tags"], A{2, 0})
		_, err := c.UpdateOne(ctx, M{"_id": 1}, M{"$set": M{"_id": 2}})
		fails(66, err)
		return ""
	}},
	{"replace", func() string {
		filled(10)
		eq(one(c.ReplaceOne(ctx, M{"_id": 1}, M{"a": 1})).ModifiedCount, 1)
		eq(one(c.ReplaceOne(ctx, M{"_id": 100}, M{"a": 1}, options.Replace().SetUpsert(true))).UpsertedID, 100)
		return ""
	}},
	{"delete", func() string {
		filled(10)
		eq(one(c.DeleteOne(ctx, M{"x": 1})).DeletedCount, 1)
		eq(one(c.DeleteMany(ctx, M{"x": 1})).DeletedCount, 2)
		eq(one(c.DeleteMany(ctx, M{"s": "AA"}, options.Delete().SetCollation(&options.Collation{Locale: "en", Strength: 2}))).DeletedCount, 4)
		return ""
	}},
	{"find_and_modify", func() string {
		filled(10)
		var d M
		must(c.FindOneAndUpdate(ctx, M{"x": 1}, M{"$inc": M{"x": 10}}, options.FindOneAndUpdate().SetSort(M{"_id": -1})).Decode(&d))
		eq(d["_id"], 7)
		d = nil
		must(c.FindOneAndUpdate(ctx, M{"_id": 7}, M{"$inc": M{"x": 1}}, options.FindOneAndUpdate().SetReturnDocument(options.After).SetProjection(M{"x": 1})).Decode(&d))
		eq(d, M{"_id": 7, "x": 12})
		eq(c.FindOneAndReplace(ctx, M{"_id": 50}, M{"a": 1}, options.FindOneAndReplace().SetUpsert(true)).Err(), mongo.ErrNoDocuments)
		must(c.FindOneAndDelete(ctx, M{"_id": 50}).Err())
		eq(c.FindOneAndDelete(ctx, M{"_id": 50}).Err(), mongo.ErrNoDocuments)
		return ""
	}},
	{"bulk", func() string {
		filled(10)
		r := one(c.BulkWrite(ctx, []mongo.WriteModel{mongo.NewInsertOneModel().SetDocument(M{"_id": 20}), mongo.NewUpdateOneModel().SetFilter(M{"_id": 1}).SetUpdate(M{"$set": M{"b": 1}}),
			mongo.NewUpdateManyModel().SetFilter(M{"x": 0}).SetUpdate(M{"$set": M{"b": 2}}), mongo.NewReplaceOneModel().SetFilter(M{"_id": 30}).SetReplacement(M{"r": 1}).SetUpsert(true),
			mongo.NewDeleteOneModel().SetFilter(M{"_id": 2}), mongo.NewDeleteManyModel().SetFilter(M{"x": 2})}))
		eq([]int64{r.InsertedCount, r.MatchedCount, r.ModifiedCount, r.DeletedCount, r.UpsertedCount}, []int64{1, 5, 5, 3, 1})
		return ""
	}},
	{"bulk_errors", func() string {
		filled(2)
		var ops []mongo.WriteModel
		for _, id := range []int{5, 1, 6, 1} {
			ops = append(ops, mongo.NewInsertOneModel().SetDocument(M{"_id": id}))
		}
		ops = append(ops, mongo.NewUpdateOneModel().SetFilter(M{"_id": 0}).SetUpdate(M{"$set": M{"k": 1}}))
		met := func(err error) (out [][2]int) {
			var b mongo.BulkWriteException
			errors.As(fails(11000, err), &b)
			for _, e := range b.WriteErrors {
				out = append(out, [2]int{e.Index, e.Code})
			}
			return
		}
		_, err := c.BulkWrite(ctx, ops)
		eq(met(err), [][2]int{{1, 11000}})
		one(c.DeleteOne(ctx, M{"_id": 5}))
		r, err := c.BulkWrite(ctx, ops, options.BulkWrite().SetOrdered(false))
		eq(met(err), [][2]int{{1, 11000}, {3, 11000}})
		eq(r.ModifiedCount, 1)
		return ""
	}},
	{"cursors", func() string {
		filled(250)
		eq(len(find(M{}, options.Find().SetBatchSize(7).SetSort(M{"_id": 1}))), 250)
		cursor := one(c.Find(ctx, M{}, options.Find().SetBatchSize(2)))
		if !cursor.Next(ctx) || cursor.ID() == 0 {
			panic("no cursor")
		}
		must(cursor.Close(ctx))
		eq(len(find(M{}, options.Find().SetLimit(-5))), 5)
		return ""
	}},
	{"indexes", func() string {
		filled(10)
		i := c.Indexes()
		eq(one(i.CreateMany(ctx, []mongo.IndexModel{{Keys: D{{"x", 1}, {"s", -1}}, Options: options.Index().SetName("both")},
			{Keys: M{"a": 1}, Options: options.Index().SetUnique(true).SetPartialFilterExpression(M{"a": M{"$exists": true}})}, {Keys: M{"when": 1}, Options: options.Index().SetExpireAfterSeconds(3600)}})), []string{"both", "a_1", "when_1"})
		eq(len(one(i.ListSpecifications(ctx))), 4)
		one(c.InsertOne(ctx, M{"a": 1}))
		_, err := c.InsertOne(ctx, M{"a": 1})
		eq(mongo.IsDuplicateKeyError(fails(11000, err)), true)
		_, err = i.CreateOne(ctx, mongo.IndexModel{Keys: M{"x": 1}, Options: options.Index().SetName("both")})
		fails(86, err)
		one(i.DropOne(ctx, "both"))
		_, err = i.DropOne(ctx, "both")
		fails(27, err)
		one(i.DropAll(ctx))
		return ""
	}},
	{"aggregation", func() string {
		filled(10)
		eq(one(aggregate(A{M{"$match": M{"_id": M{"$lt": 9}}}, M{"$group": M{"_id": "$x", "n": M{"$sum": 1}}}, M{"$sort": M{"_id": 1}}})), []M{{"_id": 0, "n": 3}, {"_id": 1, "n": 3}, {"_id": 2, "n": 3}})
		other := db.Collection("other")
		must(other.Drop(ctx))
		one(other.InsertMany(ctx, A{M{"_id": 0, "name": "0"}, M{"_id": 1, "name": "1"}, M{"_id": 2, "name": "2"}}))
		eq(len(one(aggregate(A{M{"$lookup": M{"from": "other", "localField": "x", "foreignField": "_id", "as": "o"}}, M{"$unwind": "$o"}, M{"$match": M{"o.name": "1"}}}))), 3)
		eq(one(aggregate(A{M{"$facet": M{"a": A{M{"$count": "n"}}}}})), []M{{"a": A{M{"n": 10}}}})
		eq(len(one(aggregate(A{}, options.Aggregate().SetBatchSize(3).SetAllowDiskUse(true)))), 10)
		_, err := aggregate(A{M{"$nothing": M{}}})
		fails(40324, err)
		return ""
	}},
	{"out", func() string {
		filled(10)
		one(aggregate(A{M{"$match": M{"x": 1}}, M{"$out": "copied"}}))
		eq(one(db.Collection("copied").CountDocuments(ctx, M{})), 3)
		one(aggregate(A{M{"$set": M{"m": 1}}, M{"$merge": M{"into": "copied"}}}))
		eq(one(db.Collection("copied").CountDocuments(ctx, M{"m": 1})), 10)
		return ""
	}},
	{"distinct_count", func() string {
		filled(10)
		eq(len(one(c.Distinct(ctx, "x", M{"_id": M{"$gt": 1}}))), 3)
		eq([]int64{number(M{"x": 1}), one(c.EstimatedDocumentCount(ctx)), number(M{}, options.Count().SetSkip(2).SetLimit(3))}, []int64{3, 10, 3})
		return ""
	}},
	{"explain", func() string {
		filled(10)
		var d M
		must(db.RunCommand(ctx, D{{"explain", D{{"find", "things"}, {"filter", M{"_id": 3}}}}, {"verbosity", "executionStats"}}).Decode(&d))
		eq(d["executionStats"].(M)["nReturned"], 1)
		return ""
	}},
	{"sessions", func() string {
		filled(10)
		s := one(client.StartSession(options.Session().SetCausalConsistency(true)))
		defer s.EndSession(ctx)
		return one("", mongo.WithSession(ctx, s, func(ctx mongo.SessionContext) error {
			one(c.InsertOne(ctx, M{"_id": 99}))
			must(c.FindOne(ctx, M{"_id": 99}).Err())
			if s.OperationTime() == nil || s.ClusterTime() == nil {
				panic("no times")
			}
			return nil
		}))
	}},
	{"transactions", func() string {
		filled(10)
		s := one(client.StartSession())
		defer s.EndSession(ctx)
		one(s.WithTransaction(ctx, func(t mongo.SessionContext) (any, error) {
			one(c.InsertOne(t, M{"_id": 50}))
			one(c.UpdateOne(t, M{"_id": 1}, M{"$set": M{"t": 1}}))
			eq(number(M{"_id": 50}), 0)
			return nil, nil
		}, options.Transaction().SetReadConcern(readconcern.Snapshot()).SetWriteConcern(writeconcern.New(writeconcern.WMajority()))))
		eq(number(M{"$or": A{M{"_id": 50}, M{"t": 1}}}), 2)
		must(s.StartTransaction())
		one(c.UpdateOne(mongo.NewSessionContext(ctx, s), M{"_id": 2}, M{"$set": M{"t": 2}}))
		o := one(client.StartSession())
		defer o.EndSession(ctx)
		must(o.StartTransaction())
		_, err := c.UpdateOne(mongo.NewSessionContext(ctx, o), M{"_id": 2}, M{"$set": M{"t": 3}})
		var e mongo.ServerError
		errors.As(fails(112, err), &e)
		eq(e.HasErrorLabel("TransientTransactionError"), true)
		must(s.AbortTransaction(ctx))
		eq(number(M{"t": 2}), 0)
		return ""
	}},
	{"change_streams", func() string {
		filled(10)
		w := one(c.Watch(ctx, A{}, options.ChangeStream().SetFullDocument(options.UpdateLookup)))
		one(c.InsertOne(ctx, M{"_id": 40}))
		one(c.UpdateOne(ctx, M{"_id": 40}, M{"$set": M{"a": 1}}))
		one(c.DeleteOne(ctx, M{"_id": 40}))
		next := func(w *mongo.ChangeStream) string {
			if !w.Next(ctx) {
				panic(w.Err())
			}
			return w.Current.Lookup("operationType").StringValue()
		}
		eq(next(w), "insert")
		again := one(db.Watch(ctx, A{}, options.ChangeStream().SetResumeAfter(w.ResumeToken())))
		eq(next(again)+next(again), "updatedelete")
		t, i := w.Current.Lookup("clusterTime").Timestamp()
		whole := one(client.Watch(ctx, A{}, options.ChangeStream().SetStartAtOperationTime(&primitive.Timestamp{T: t, I: i})))
		eq(next(whole), "insert")
		for _, x := range []*mongo.ChangeStream{w, again, whole} {
			must(x.Close(ctx))
		}
		return ""
	}},
	{"gridfs", func() string {
		bucket := one(gridfs.NewBucket(db))
		data := make([]byte, 1000000)
		rand.Read(data)
		id := one(bucket.UploadFromStream("file", bytes.NewReader(data), options.GridFSUpload().SetMetadata(M{"a": 1})))
		var out bytes.Buffer
		one(bucket.DownloadToStream(id, &out))
		eq(bytes.Equal(out.Bytes(), data), true)
		must(bucket.Delete(id))
		_, err := bucket.OpenDownloadStream(id)
		eq(err, gridfs.ErrFileNotFound)
		return ""
	}},
	{"types", func() string {
		t := db.Collection("types")
		must(t.Drop(ctx))
		decimal := func(s string) primitive.Decimal128 { return one(primitive.ParseDecimal128(s)) }
		want := D{{"_id", int32(1)}, {"double", 1.5}, {"string", "zß水🍌\x00x"}, {"object", D{{"a", D{{"b", A{}}}}}}, {"array", A{int32(1), "a", nil}}, {"id", primitive.NewObjectID()},
			{"yes", true}, {"null", nil}, {"int", int32(7)}, {"long", int64(1) << 62}, {"decimal", decimal("-1.50E+6000")}, {"dnan", decimal("NaN")}, {"old", primitive.DateTime(-2175000000123)},
			{"ts", primitive.Timestamp{T: 4294967295, I: 7}}, {"min", primitive.MinKey{}}, {"max", primitive.MaxKey{}}, {"re", primitive.Regex{Pattern: "a.*b/", Options: "imx"}},
			{"code", primitive.JavaScript("f()")}, {"scoped", primitive.CodeWithScope{Code: "f()", Scope: D{{"x", int32(1)}}}}, {"undefined", primitive.Undefined{}}, {"symbol", primitive.Symbol("s")},
			{"pointer", primitive.DBPointer{DB: "a.b", Pointer: primitive.NewObjectID()}}}
		for _, sub := range []byte{0, 1, 3, 4, 5, 128, 255} {
			want = append(want, primitive.E{Key: fmt.Sprint("bin", sub), Value: primitive.Binary{Subtype: sub, Data: []byte("0123456789abcdef")}})
		}
		one(t.InsertOne(ctx, want))
		raw := one(t.FindOne(ctx, M{}).DecodeBytes())
		eq(reflect.DeepEqual([]byte(raw), one(bson.Marshal(want))), true)
		eq(one(t.CountDocuments(ctx, M{"old": M{"$lt": primitive.DateTime(0)}, "symbol": M{"$type": "symbol"}, "undefined": M{"$type": 6}, "pointer": M{"$type": "dbPointer"}})), 1)
		return ""
	}},
	{"large", func() string {
		t := db.Collection("large")
		must(t.Drop(ctx))
		one(t.InsertOne(ctx, M{"_id": 1, "b": make([]byte, 15<<20)}))
		eq(len(one(t.FindOne(ctx, M{}).DecodeBytes())) > 15<<20, true)
		var six []any
		for i := 0; i < 6; i++ {
			six = append(six, M{"b": make([]byte, 9<<20)})
		}
		one(t.InsertMany(ctx, six))
		var all []bson.Raw
		must(one(t.Find(ctx, M{"_id": M{"$ne": 1}})).All(ctx, &all))
		eq(len(all), 6)
		return ""
	}},
	{"too_large", func() string {
		_, err := db.Collection("large").InsertOne(ctx, M{"b": make([]byte, 16<<20+100)})
		fails(0, err)
		_, err = db.Collection("large").UpdateOne(ctx, M{"_id": 1}, M{"$set": M{"c": make([]byte, 2<<20)}})
		fails(17419, err)
		return ""
	}},
	{"duplicate_key", func() string {
		filled(2)
		_, err := c.InsertOne(ctx, M{"_id": 1})
		eq(strings.Contains(fails(11000, err).Error(), "index: _id_ dup key: { _id: 1 }"), true)
		return ""
	}},
	{"lists", func() string {
		filled(10)
		eq(one(client.ListDatabaseNames(ctx, M{"name": db.Name()})), []string{db.Name()})
		must(db.CreateView(ctx, "view", "things", A{M{"$match": M{"x": 1}}}))
		eq(one(db.ListCollectionSpecifications(ctx, M{"name": "view"}))[0].Type, "view")
		fails(48, db.CreateCollection(ctx, "things", options.CreateCollection().SetCapped(true).SetSizeInBytes(4096)))
		return ""
	}},
	{"retry", func() string {
		filled(10)
		must(exec.Command("sh", "-c", os.Getenv("VD_KILL")).Run())
		for i := 100; i < 120; i++ {
			one(c.InsertOne(ctx, M{"_id": i}))
		}
		eq(number(M{"_id": M{"$gte": 100}}), 20)
		return ""
	}},
	{"unacknowledged", func() string {
		filled(10)
		w0 := db.Collection("things", options.Collection().SetWriteConcern(writeconcern.New(writeconcern.W(0))))
		for _, id := range []int{300, 1} {
			if _, err := w0.InsertOne(ctx, M{"_id": id}); err != nil && err != mongo.ErrUnacknowledgedWrite {
				panic(err)
			}
		}
		for i := 0; i < 500 && number(M{"_id": 300}) == 0; i++ {
		}
		eq(number(M{"_id": 300}), 1)
		return ""
	}},
	{"read_preference", func() string {
		filled(10)
		tags := readpref.SecondaryPreferred(readpref.WithTagSets(tag.Set{{Name: "dc", Value: "x"}}, tag.Set{}))
		eq(one(db.Collection("things", options.Collection().SetReadPreference(tags)).CountDocuments(ctx, M{})), 10)
		short := dial(uri, options.Client().SetServerSelectionTimeout(300*time.Millisecond))
		defer short.Disconnect(ctx)
		fails(0, short.Ping(ctx, readpref.Secondary()))
		return ""
	}},
	{"max_time", func() string {
		filled(10)
		_, err := aggregate(A{M{"$match": M{"_id": 1}}, M{"$project": M{"a": M{"$range": A{0, 1000000}}}}, M{"$unwind": "$a"}, M{"$group": M{"_id": nil, "n": M{"$sum": "$a"}}}}, options.Aggregate().SetMaxTime(time.Millisecond))
		fails(50, err)
		eq(len(find(M{}, options.Find().SetMaxTime(10*time.Second))), 10)
		return ""
	}},
	{"compression", func() string {
		for _, name := range []string{"zlib", "snappy", "zstd"} {
			z := dial(uri, options.Client().SetCompressors([]string{name}))
			t := z.Database(db.Name()).Collection("squeezed")
			must(t.Drop(ctx))
			var many []any
			for i := 0; i < 100; i++ {
				many = append(many, M{"s": strings.Repeat("ab", 5000)})
			}
			one(t.InsertMany(ctx, many))
			eq(one(t.CountDocuments(ctx, M{})), 100)
			must(z.Disconnect(ctx))
		}
		return ""
	}},
	{"x509", func() string {
		x := dial(os.Getenv("VD_X509_URI"))
		defer x.Disconnect(ctx)
		var d struct{ AuthInfo struct{ AuthenticatedUsers []struct{ DB string } } }
		must(x.Database("admin").RunCommand(ctx, M{"connectionStatus": 1}).Decode(&d))
		eq(d.AuthInfo.AuthenticatedUsers[0].DB, "$external")
		return ""
	}},
}

func check(name string, body func() string) (why any) {
	defer func() { why = recover() }()
	if skip := body(); skip != "" {
		fmt.Print("# SKIP ", skip, "\n")
	}
	return nil
}

func main() {
	client = dial(uri, options.Client().SetServerSelectionTimeout(30*time.Second))
	db = client.Database("clients_go")
	c = db.Collection("things")
	failed := 0
	fmt.Printf("1..%d\n", len(list))
	for i, t := range list {
		if why := check(t.name, t.body); why != nil {
			failed++
			fmt.Printf("not ok %d - %s\n# %s\n", i+1, t.name, strings.ReplaceAll(fmt.Sprint(why), "\n", "\n# "))
		} else {
			fmt.Printf("ok %d - %s\n", i+1, t.name)
		}
	}
	if failed > 0 {
		os.Exit(1)
	}
}
