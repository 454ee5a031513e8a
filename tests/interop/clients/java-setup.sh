# Sourced by the Java runner after lib.sh: CLASSPATH with Kafka's jars, as java/pom.xml names them, and our classes.
#   KAFKA_JAR_VERSION=4.2.1    default: the pom's
command -v mvn > /dev/null && command -v javac > /dev/null || { report SKIP "java" "needs Maven and a JDK"; finish; }
CLIENTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"; POM="$CLIENTS/java/pom.xml"
JARS_VERSION="${KAFKA_JAR_VERSION:-$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$POM")}"
JARS="$CACHE/kafka-jars-$JARS_VERSION.cp"
[ -s "$JARS" ] || setup mvn -q -B -f "$POM" -Dkafka.version="$JARS_VERSION" dependency:build-classpath \
  -Dmdep.outputFile="$JARS"
CLASSES="$CACHE/java-$(cat "$CLIENTS"/java/src/*.java "$JARS" | md5sum | cut -c1-10)"
if [ ! -e "$CLASSES/ready" ]; then
  mkdir -p "$CLASSES"
  setup javac -proc:none -nowarn -cp "$(cat "$JARS")" -d "$CLASSES" "$CLIENTS"/java/src/*.java
  touch "$CLASSES/ready"
fi
export CLASSPATH="$CLASSES:$(cat "$JARS")"
JAVA="java -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"     # short-lived: start-up counts more than peak speed
